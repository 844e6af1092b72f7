"""Facts about families in TOML files: they are read whole, trained, resumed and evaluated."""

import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mtrl.cli import main
from mtrl.envs.contexts.family import ContextFamily
from mtrl.envs.contexts.files import read_family
from mtrl.envs.contexts.model_fields import ModelField
from mtrl.envs.contexts.targets import Attribute, Keyword
from mtrl.envs.distributions import Choice, Normal
from mtrl.envs.registered import make_env
from mtrl.envs.registry import family_names, get_family
from mtrl.errors import UsageError

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
CARTPOLE = EXAMPLES / "long_cartpole.toml"
TINY = [
    *("--iterations", "2", "--test-tasks", "2", "--tasks-per-batch", "2", "--hidden", "4"),
    *("--episodes-per-task", "2", "--family-options", "horizon", "6"),
    *("--evaluate-every", "9", "--checkpoint-every", "1"),
]

EVERY_KEY = """
name = "everything"
env = "Hopper-v5"
summary = "all that a file can say"
horizon = 7
flatten = true
split_rule = "interpolation"

[ranges]
torso = [0.5, 2]
dt = 0.25
noise = { mean = 0.0, std = 0.5 }
legs = { values = [1, 2] }
floor = [[0.1, 0.2], [0.8, 0.9]]

[held_out]
torso = [[1.0, 1.2]]

[targets]
torso = { kind = "model-field", field = "body_mass", of = "torso" }
floor = { kind = "model-field", field = "geom_friction", of = "floor", index = 0, mode = "set" }
dt = { kind = "attribute", path = "unwrapped._reset_noise_scale" }
noise = { kind = "attribute", path = "_healthy_reward" }
legs = { kind = "keyword", keyword = "frame_skip" }
stop = { kind = "keyword", keyword = "terminate_when_unhealthy", options = [true, false] }

[derived]
_forward_reward_weight = "1 + torso * frame_skip"

[keywords]
ctrl_cost_weight = 0.5
"""


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Write a file and return its path."""

    def write(text: str, name: str = "family.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_every_key_is_what_python_would_say(written: Any) -> None:
    expected = ContextFamily(
        name="everything",
        env="Hopper-v5",
        horizon=7,
        flatten=True,
        split_rule="interpolation",
        ranges={
            "torso": (0.5, 2.0),
            "dt": 0.25,
            "noise": Normal(0.0, 0.5),
            "legs": Choice((1.0, 2.0)),
            "floor": ((0.1, 0.2), (0.8, 0.9)),
        },
        held_out={"torso": ((1.0, 1.2),)},
        targets={
            "torso": ModelField("body_mass", "torso"),
            "floor": ModelField("geom_friction", "floor", 0, "set"),
            "dt": Attribute("_reset_noise_scale"),
            "noise": Attribute("_healthy_reward"),
            "legs": Keyword("frame_skip"),
            "stop": Keyword("terminate_when_unhealthy", (True, False)),
        },
        derived={"_forward_reward_weight": "1 + torso * frame_skip"},
        keywords={"ctrl_cost_weight": 0.5},
    )
    family = get_family(str(written(EVERY_KEY)))
    assert isinstance(family, ContextFamily)
    rng = np.random.default_rng
    for split in ("train", "test"):
        tasks = family.sample(4, rng(0), split)
        assert tasks == expected.sample(4, rng(0), split)
        one, other = family.make(tasks[0]), expected.make(tasks[0])
        assert_array_equal(one.reset(seed=3)[0], other.reset(seed=3)[0])
        inner, params = one.wrapped.unwrapped, tasks[0].params
        assert inner._reset_noise_scale == 0.25
        assert inner._forward_reward_weight == 1 + params["torso"] * inner.frame_skip
        assert inner.frame_skip == params["legs"]
        assert inner._terminate_when_unhealthy is (params["stop"] == 0)
        assert inner._ctrl_cost_weight == 0.5


def test_presets_lay_their_ranges_over_the_files() -> None:
    plain, wide = get_family(str(CARTPOLE)), get_family(str(CARTPOLE), "wide")
    assert isinstance(plain, ContextFamily) and isinstance(wide, ContextFamily)
    assert plain.name == wide.name == "long-cartpole"
    assert plain.ranges == {"length": (0.25, 1.0), "masspole": (0.05, 0.3)}
    assert wide.ranges == {"length": (0.1, 2.0), "masspole": (0.05, 0.3)}
    assert wide.held_out == {"length": ((1.5, 2.0),)}
    assert wide.split_rule == plain.split_rule == "extrapolation"
    assert wide.derived == plain.derived
    assert get_family(str(CARTPOLE), horizon=9).horizon == 9
    assert "long-cartpole" not in family_names()


def test_a_file_is_a_family_for_gymnasium_too() -> None:
    env = make_env(family=str(CARTPOLE), preset="wide", task="test", horizon=3)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


def test_the_documented_file_is_a_family(written: Any) -> None:
    page = (EXAMPLES.parent / "families-own.md").read_text()
    (text,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    documented, example = get_family(str(written(text))), get_family(str(CARTPOLE))
    assert isinstance(documented, ContextFamily) and isinstance(example, ContextFamily)
    assert documented.ranges == example.ranges
    presets = read_family(written(text)).presets, read_family(CARTPOLE).presets
    assert presets[0]["wide"]["ranges"] == presets[1]["wide"]["ranges"]


def test_every_documented_target_is_one(written: Any) -> None:
    page = (EXAMPLES.parent / "families-own.md").read_text()
    targets = re.findall(r"^\| `(x = \{ kind.*?\})`", page, re.MULTILINE)
    ranges = re.findall(r"^\| `(x = (?!\{ kind).*?)`", page, re.MULTILINE)
    assert len(targets) == 5 and len(ranges) == 5
    for text in targets:
        read_family(written(f"name = 'x'\nenv = 'x'\ntargets.{text}"))
    for text in ranges:
        read_family(written(f"name = 'x'\nenv = 'x'\nranges.{text}"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_plays(path: Path) -> None:
    for preset in read_family(path).presets:
        env = get_family(str(path), preset).make("test")
        env.reset(seed=0)
        env.action_space.seed(0)
        assert env.observation_space.contains(env.step(env.action_space.sample())[0])


def test_the_command_line_lists_a_file(capsys: pytest.CaptureFixture[str], written: Any) -> None:
    assert main(["families", str(CARTPOLE)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "balance a pole whose",
        "default, wide",
        "length: 0.25 to 1",
        "(m, half the pole)",
    ):
        assert text in shown
    lake = written(
        """
        name = "lake"
        env = "FrozenLake-v1"
        split_rule = "shared"
        flatten = true
        targets.map = { kind = "keyword", keyword = "map_name", options = ["4x4", "8x8"] }
        """
    )
    assert main(["families", str(lake)]) == 0
    assert "note observations of smaller tasks are" in " ".join(capsys.readouterr().out.split())
    assert main(["families", str(lake), "--sample", "2"]) == 0
    tasks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [task["family"] for task in tasks] == ["lake", "lake"]


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, whose family's file has since been changed."""
    folder = tmp_path_factory.mktemp("runs")
    file = folder / "mine.toml"
    file.write_text(CARTPOLE.read_text())
    assert main(["train", "rl", "--dir", f"{folder}/run", "--family", str(file), *TINY]) == 0
    file.write_text("name = 'no more'")
    return folder / "run"


def rows(run: Path) -> list[str]:
    lines = (run / "metrics.csv").read_text().splitlines()
    return [line for line in lines if ",meta/" in line or ",outer/" in line]


def test_a_file_trains_and_resumes_bit_for_bit_from_the_runs_own_copy(
    run: Path, tmp_path: Path
) -> None:
    assert (run / "family.toml").read_text() == CARTPOLE.read_text()
    assert any(row.startswith("2,meta/post_adapt_return,") for row in rows(run))
    whole = tmp_path / "whole"
    arguments = ["--family", str(CARTPOLE), *TINY, "--iterations", "3"]
    assert main(["train", "rl", "--dir", str(whole), *arguments]) == 0
    assert main(["train", "--resume", str(run), "--iterations", "3"]) == 0
    assert any(row.startswith("3,meta/post_adapt_return,") for row in rows(run))
    assert rows(run) == rows(whole)


def test_a_moved_run_is_evaluated_without_its_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in run.rglob("*"):
        target = moved / path.relative_to(run)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    assert main(["evaluate", str(moved), "--tasks", "2"]) == 0
    assert "long-cartpole (default), 2 unseen tasks" in capsys.readouterr().out
    # Another run on the same file, by another path, can be compared with it.
    assert main(["evaluate", str(moved), "--against", str(run), "--tasks", "2"]) == 0
    assert json.loads((moved / "evaluation.json").read_text())["tasks"]["family"] == "long-cartpole"


def test_a_changed_copy_is_refused_when_a_run_is_resumed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = run / "family.toml"
    content = copy.read_text()
    copy.write_text(content.replace("0.3]", "0.4]"))
    assert main(["train", "--resume", str(run), "--iterations", "9"]) == 1
    assert "family_file is not what" in capsys.readouterr().err
    copy.write_text(content)


def test_a_file_in_the_copys_place_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "family.toml"
    other.write_text("precious = 1")
    assert main(["train", "rl", "--dir", str(tmp_path), "--family", str(CARTPOLE), *TINY]) == 2
    assert "is another file than" in capsys.readouterr().err
    assert other.read_text() == "precious = 1"


# What is refused: the message names file and key


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('env = "Cart', 'envv = "Cart', "unknown key envv; did you mean env"),
        ('name = "long-cartpole"', "", "missing key name"),
        ('name = "long-cartpole"', 'name = ""', "name is empty"),
        ("[0.25, 1.0]", "[1.0, 0.25]", "range of 'length' is .1.0, 0.25.; low must not exceed"),
        ("[0.25, 1.0]", '"long"', "ranges.length must be a number, got 'long'"),
        ("[0.25, 1.0]", "[1, 2, 3]", "ranges.length must be 2 values"),
        ("[0.25, 1.0]", "{ mean = 1.0 }", "ranges.length.: give either values"),
        ("[0.25, 1.0]", "{ mean = 1.0, std = 0.0 }", "std must be above 0"),
        ("[0.25, 1.0]", "{ values = [] }", "a choice among no values"),
        ("length = [0.25", "lenght = [0.25", "held_out 'length' is not a number that varies"),
        ("masspole = [0", "massepole = [0", "attribute 'massepole'.*did you mean 'masspole'"),
        ("[[0.8, 1.0]]", "[0.8, 1.0]", r"held_out.length\[0\] must be a list"),
        ("[[0.8, 1.0]]", "[[0.8, 1.4]]", "held_out 'length' is .0.8, 1.4.; under 'extra"),
        ('"extrapolation"', '"exterpolation"', "split_rule must be one of random"),
        ('"CartPole-v1"', '"CartPol-v1"', "Did you mean: `CartPole`"),
        ('"masspole * length"', '"masspole ^ length"', "is not arithmetic"),
        ("[derived]", "[targets.length]\nkind = 'attr'\n[derived]", "kind must be one of attr"),
        ("[presets.wide]", "[presets.default]", "preset 'default' is the file"),
        ("ranges.length = [0.1", "range.length = [0.1", "presets.wide.range; did you mean ranges"),
        ("[ranges]", "[ranges", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused(written: Any, old: str, new: str, problem: str) -> None:
    text = CARTPOLE.read_text()
    assert old in text
    path = written(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=f"{re.escape(str(path))}.*{problem}"):
        get_family(str(path))


def test_a_missing_file_and_preset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read .*none.toml: No such file"):
        get_family(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="preset.*'wid'.*did you mean 'wide'"):
        get_family(str(CARTPOLE), "wid")
    with pytest.raises(UsageError, match="argument.*'horizn'.*did you mean 'horizon'"):
        get_family(str(CARTPOLE), horizn=3)


def test_a_module_before_the_id_is_imported(
    written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_envs.py").write_text(
        "import gymnasium as gym\n"
        "from context_envs import Arm\n"
        "gym.register(id='TheirArm-v0', entry_point=Arm, max_episode_steps=3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = written(
        """
        name = "arm"
        env = "their_envs:TheirArm-v0"
        split_rule = "shared"
        [ranges]
        joints = { values = [1, 2] }
        [targets]
        joints = { kind = "keyword", keyword = "joints" }
        """
    )
    try:
        assert get_family(str(path)).horizon == 3
    finally:
        gym.registry.pop("TheirArm-v0")
