"""The documents: what they show works, what they name exists."""

import contextlib
import io
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mtrl.cli import COMMANDS
from mtrl.commands.benchmark_adaptation import parse_adaptation
from mtrl.commands.benchmark_quality import parse_quality
from mtrl.commands.compare import parse_comparison
from mtrl.commands.evaluate import EvaluateOptions
from mtrl.commands.families import FamiliesOptions
from mtrl.commands.parsing import parse
from mtrl.commands.report import ReportOptions
from mtrl.commands.reproduce import ReproduceOptions
from mtrl.commands.train import parse_training
from mtrl.config import from_dict
from mtrl.envs import registry
from mtrl.meta.kinds import KINDS
from mtrl.tags import tags_markdown

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text()) if name == language]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield the page and arguments of every indented `mtrl` command."""
    for page in PAGES:
        for line in page.read_text().splitlines():
            if line.startswith("    mtrl "):
                yield page.name, shlex.split(line, comments=True)[1:]


def python_examples() -> list[tuple[str, str]]:
    return [(page.name, code) for page in PAGES for code in blocks(page, "python")]


def run_example(code: str, folder: Path) -> dict[str, Any]:
    (folder / "example.py").write_text(code)
    return runpy.run_path(str(folder / "example.py"), run_name="example")


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_something_to_check() -> None:
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"} <= {page.name for page in PAGES}
    assert len(list(commands())) > 10 and len(python_examples()) >= 3


@pytest.mark.parametrize(("page", "arguments"), list(commands()), ids=str)
def test_a_documented_command_is_understood(page: str, arguments: list[str]) -> None:
    command, *rest = arguments
    assert command in COMMANDS
    if command == "train" and rest[0] != "--resume":
        parse_training(KINDS[rest[0]], rest[1:], "mtrl train")
    if command == "compare":
        parse_comparison(rest)
    if command == "benchmark":
        {"adaptation": parse_adaptation, "quality": parse_quality}[rest[0]](rest[1:])
    options: dict[str, Any] = {
        "families": FamiliesOptions,
        "evaluate": EvaluateOptions,
        "report": ReportOptions,
        "reproduce": ReproduceOptions,
    }
    if command in options:
        parse(options[command], rest, command=f"mtrl {command}")


@pytest.mark.parametrize(("page", "code"), python_examples(), ids=lambda value: value[:20])
def test_a_documented_example_runs(page: str, code: str, somewhere: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        run_example(code, somewhere)


def test_the_familys_example_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = (
        code for code in blocks(ROOT / "docs" / "families.md", "python") if "FamilySpec" in code
    )
    assert len(code.splitlines()) < 50
    namespace = run_example(code, tmp_path)
    monkeypatch.setattr(registry, "_load", lambda point: namespace["thermostat"])
    monkeypatch.setitem(registry._BUILT_IN, "thermostat", "example:thermostat")
    env = registry.get_family("thermostat").make("train")
    check_env(env, skip_render_check=True)
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation, [0.0])
    KINDS["rl"].check(KINDS["rl"].config(family="thermostat"))


@pytest.mark.parametrize("name", sorted(registry._BUILT_IN))
def test_every_family_has_a_section_that_names_its_presets(name: str) -> None:
    pages = "\n".join(page.read_text() for page in (ROOT / "docs").glob("families*.md"))
    sections = re.findall(r"^## (.*)\n((?:(?!#+ ).*\n?)*)", pages, re.MULTILINE)
    found = [body for title, body in sections if re.search(rf"(?<![\w-]){name}(?![\w-])", title)]
    assert len(found) == 1
    section = found[0].lower()
    assert re.search(r"source|et al\.", section)
    assert "reward" in section and ("terminat" in section or name == "sinusoid")
    for preset in registry.family_spec(name).presets:
        assert f"`{preset}`" in pages


def test_documented_settings_are_settings() -> None:
    (table,) = (
        tomllib.loads(code)
        for code in blocks(ROOT / "docs" / "running.md", "toml")
        if "learner" in code
    )
    from_dict(KINDS["rl"].config, table)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = [
        target
        for target in LINK.findall(page.read_text())
        # Pages of results are made by `mtrl reproduce`.
        if not (page.parent / target).exists() and "results" not in target
    ]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:mtrl|envs|agents|scripts|tests|docs)/[\w/.-]+\.\w+)`", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_tag_table_is_the_registry() -> None:
    assert tags_markdown() in (ROOT / "docs" / "tensorboard.md").read_text()


def test_the_readme_opens_with_purpose_then_two_commands() -> None:
    opening = (ROOT / "README.md").read_text().split("\n## ")[0]
    title, purpose, first_commands, *_ = opening.split("\n\n")
    assert title == "# mtrl"
    assert len(re.findall(r"\.(?:\s|$)", purpose)) == 3
    assert re.findall(r"^    (\S+ \S+)", first_commands, re.MULTILINE) == ["make demo", "make test"]


def test_make_has_every_documented_target() -> None:
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set()
    for page in PAGES:
        for words in re.findall(r"(?:^    |`)make ((?:[\w-]+ ?)+)", page.read_text(), re.MULTILINE):
            named |= set(words.split())
    assert {"demo", "test"} <= named <= rules


def test_contributing_fits_one_screen() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 40
