"""The wheel: the package, all of it, and nothing else; and it works where it is installed."""

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mtrl

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"mtrl": ROOT / "mtrl", "mtrl/envs": ROOT / "envs", "mtrl/agents": ROOT / "agents"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def python_files() -> set[str]:
    """Return every .py of the three folders, as the wheel should name it."""
    return {
        (Path(target) / place.relative_to(folder) / name).as_posix()
        for target, folder in FOLDERS.items()
        # os.walk does not enter linked folders, so that each file is found once.
        for place, name in (
            (Path(found), name) for found, _, names in os.walk(folder) for name in names
        )
        if name.endswith(".py")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy: setuptools leaves its traces beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    listed = ["mtrl", "envs", "agents", "pyproject.toml", "README.md", "LICENSE"]
    copy.mkdir()
    subprocess.run(["cp", "-a", *(str(ROOT / name) for name in listed), str(copy)], check=True)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(copy)], check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", folder, wheel], check=True)
    return folder


def run_installed(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the console script of the installed wheel, away from the checkout."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, str(folder / "bin" / "mtrl"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, check=False
    )


def test_packages_in_pyproject_are_those_of_the_tree() -> None:
    in_tree = {Path(name).parent.as_posix().replace("/", ".") for name in python_files()}
    assert sorted(in_tree) == PROJECT["tool"]["setuptools"]["packages"]


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {name for name in names if ".dist-info/" not in name}
    assert ours == python_files() | {"mtrl/py.typed"}


def test_the_top_level_is_exactly_mtrl(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mtrl"}
    assert len(tops) == 2


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    (name,) = (n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("/METADATA"))
    text = zipfile.ZipFile(wheel).read(name).decode()
    assert text.splitlines()[1:3] == ["Name: mtrl-suite", f"Version: {mtrl.__version__}"]
    for version in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in text
    assert any(n.endswith("LICENSE") for n in zipfile.ZipFile(wheel).namelist())


def test_the_version_is_said_once() -> None:
    assert PROJECT["project"]["version"] == mtrl.__version__


def test_the_installed_script_works(installed: Path) -> None:
    assert run_installed(installed, "--version").stdout == f"mtrl {mtrl.__version__}\n"
    assert run_installed(installed, "--help").returncode == 0
    assert run_installed(installed).returncode == 2
    wrong = run_installed(installed, "train", "rl", "--no-such-option")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("mtrl: unknown option --no-such-option")
    assert wrong.stderr.count("\n") == 1


def test_the_installed_package_finds_its_families(installed: Path) -> None:
    code = "import mtrl, mtrl.envs as e; print(mtrl.__file__, *e.family_names())"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=installed,
        env=environment,
        check=True,
    )
    place, *families = run.stdout.split()
    assert Path(place).is_relative_to(installed)
    assert {"navigation2d", "sinusoid"} <= set(families)


def test_the_links_and_the_mapping_agree() -> None:
    mapping = PROJECT["tool"]["setuptools"]["package-dir"]
    for package in ("envs", "agents"):
        link = ROOT / "mtrl" / package
        assert link.readlink() == Path("..") / package
        assert mapping[f"mtrl.{package}"] == package


def requirements() -> list[Requirement]:
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    parsed = [Requirement(line) for line in [*project["dependencies"], *extras]]
    return [requirement for requirement in parsed if requirement.name != "mtrl-suite"]


def test_every_requirement_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {(pin := Requirement(line)).name: pin for line in lines if line and line[0] != "#"}
    for requirement in requirements():
        (specifier,) = pins[requirement.name].specifier
        assert specifier.operator == "=="
        assert specifier.version in requirement.specifier, requirement


def test_torch_is_pinned_to_the_tested_version() -> None:
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
    assert metadata.version("torch").startswith("2.13.0")
