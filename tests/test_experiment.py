"""The training scripts: each trains, adapts to unseen tasks and prints the table."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from mtrl.envs.registry import family_names
from mtrl.runs import CONFIG

ROOT = Path(__file__).resolve().parent.parent
OTHERS = {
    "train_curriculum_cartpole",
    "train_curriculum_mountaincar",
    "train_incremental_cartpole",
    "train_incremental_two_families",
    "train_multitask_cartpole",
    "train_multitask_halfcheetah",
    "train_pearl_navigation2d",
    "train_qimitation_cartpole",
    "train_rl2_bandit",
    "train_rl2_navigation2d",
}
SCRIPTS = sorted(path for path in (ROOT / "scripts").glob("train_*.py") if path.stem not in OTHERS)
TINY = ["--iterations", "1", "--tasks-per-batch", "2", "--test-tasks", "2"]
TINY_EPISODES = ["--episodes-per-task", "2", "--max-episode-steps", "8", "--hidden", "4"]
DIRECTIONS = ("ant-direction", "halfcheetah-direction", "humanoid-direction")
ANCHORS = {
    "navigation2d": ["standing still", "best possible"],
    "bandit": ["random actions", "best possible"],
    "tabular-mdp": ["random actions", "best possible"],
}

# torch scripts its own decompositions when the first derivative by a direction is taken.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def family_of(script: Path) -> str:
    return script.stem.removeprefix("train_").replace("_", "-")


def run_script(script: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    return int(stopped.value.code or 0)


def test_every_family_has_a_script() -> None:
    assert [family_of(script) for script in SCRIPTS] == family_names()


@pytest.mark.parametrize("script", SCRIPTS, ids=family_of)
def test_a_script_trains_and_prints_how_unseen_tasks_are_adapted_to(
    script: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    family = family_of(script)
    size = TINY if family == "sinusoid" else TINY + TINY_EPISODES
    assert run_script(script, ["--dir", str(tmp_path / "run"), *size], monkeypatch) == 0
    assert f'family = "{family}"' in (tmp_path / "run" / CONFIG).read_text()

    header, table, pairs = re.fullmatch(
        r"(.+ on 100 .+, mean \[95% interval\])\n(.+?)\n\n(.+)",
        capsys.readouterr().out.strip(),
        re.DOTALL,
    ).groups()  # type: ignore[union-attr]  # the assertion is that it matches
    assert "error" in header if family == "sinusoid" else "return" in header
    few = "tasks (the family has few: training and test tasks are the same by design)"
    assert (few if family in DIRECTIONS else "unseen tasks") in header
    _, *rows = table.splitlines()
    names = ["Meta-SGD", "no adaptation", *ANCHORS.get(family, [])]
    assert [row.partition("  ")[0] for row in rows] == names
    # Before adaptation both are the same policy on the same episodes.
    scores = {row.partition("  ")[0]: re.findall(r"-?\d+\.\d+", row)[:3] for row in rows}
    assert scores["Meta-SGD"] == scores["no adaptation"]
    assert re.search(r"^after 0 +0\.00 \[0\.00, 0\.00\]", pairs, re.MULTILINE)
    assert re.search(r"^after 1 +-?\d", pairs, re.MULTILINE)


def test_a_wrong_option_of_a_script_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dir", str(tmp_path), "--preset", "narrow"]
    assert run_script(ROOT / "scripts" / "train_cartpole.py", arguments, monkeypatch) == 2
    assert capsys.readouterr().err.startswith("mtrl: unknown preset of 'cartpole' 'narrow'")


def test_options_override_a_file_and_a_file_the_scripts_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('family = "bandit"\npreset = "10-arms"\nseed = 3\n')
    arguments = ["--dir", str(tmp_path / "run"), "--config", str(settings), *TINY, *TINY_EPISODES]
    script = ROOT / "scripts" / "train_bandit.py"
    assert run_script(script, [*arguments, "--seed", "4"], monkeypatch) == 0
    made = (tmp_path / "run" / CONFIG).read_text()
    assert 'preset = "10-arms"' in made and "seed = 4" in made


@pytest.mark.parametrize(
    ("script", "columns"), [("train_rl2_bandit", 1), ("train_rl2_navigation2d", 3)]
)
def test_a_recurrent_script_prints_the_return_of_every_episode_of_a_trial(
    script: str,
    columns: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = ["--iterations", "1", "--tasks-per-batch", "4", "--test-tasks", "2"]
    size += ["--max-episode-steps", "8", "--learner.units", "4"]
    arguments = ["--dir", str(tmp_path / "run"), *size]
    assert run_script(ROOT / "scripts" / f"{script}.py", arguments, monkeypatch) == 0
    printed = capsys.readouterr().out.strip()
    (row,) = [line for line in printed.splitlines() if line.startswith("RL2  ")]
    assert len(re.findall(r"\[", row)) == columns
    # With one episode in a trial there is nothing to forget between episodes.
    assert ("no adaptation" in printed) == (columns > 1)


STEPS = ["--total-steps", "600", "--evaluate-every", "600", "--eval-episodes", "1"]
OTHER = {
    "train_curriculum_cartpole": (STEPS, r"task_9 .*\nmean .*\nworst "),
    "train_curriculum_mountaincar": (STEPS, r"task_11 .*\nmean .*\nworst "),
    "train_pearl_navigation2d": (
        ["--iterations", "1", "--test-tasks", "2"],
        r"PEARL .*\nno adaptation .*\nstanding still .*\nbest possible ",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_the_other_scripts_print_a_row_for_each_task_or_learner(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, rows = OTHER[name]
    script = ROOT / "scripts" / f"{name}.py"
    assert run_script(script, ["--dir", str(tmp_path / "run"), *arguments], monkeypatch) == 0
    assert re.search(rows, capsys.readouterr().out)
