"""Configurations: what goes in comes back, and every mistake is named with its remedy."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtrl import toml_writer
from mtrl.config import (
    check_at_least,
    check_fraction,
    check_positive,
    differing_fields,
    from_dict,
    from_toml,
    kind_name,
    to_dict,
    to_toml,
)
from mtrl.config_docs import field_docs
from mtrl.errors import UsageError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class MAML:
    """Fixed step size."""

    step_size: float = 0.1
    """Inner step size."""


@dataclass(frozen=True, kw_only=True)
class MetaSGD:
    """Learned step sizes."""

    initial: tuple[float, float] = (0.005, 0.1)
    """Range of the initial step sizes,
    lowest first."""
    granularity: Literal["parameter", "layer"] = "parameter"

    def __post_init__(self) -> None:
        if self.initial[0] > self.initial[1]:
            raise UsageError(f"initial must be lowest first, got {self.initial}")


@dataclass(frozen=True, kw_only=True)
class Config:
    family: str
    """Task family."""
    shots: int = 5
    """Examples per task."""
    learner: MAML | MetaSGD = field(default_factory=MetaSGD)
    baseline: MAML | None = None
    hidden: tuple[int, ...] = (40, 40)
    clip: float | None = 10.0
    limit: int | None = None
    colour: Colour = Colour.RED
    first_order: bool = False
    fraction: float = field(default=0.5, metadata={"help": "Share of tasks."})
    params: dict[str, float] = field(default_factory=dict)
    out: Path = Path("runs")
    iterations: int = field(default=10, metadata={"resumable": True})

    def __post_init__(self) -> None:
        check_positive(self, "shots", "clip", "limit")
        check_fraction(self, "fraction")
        check_at_least(self, 0, "iterations")


floats = st.floats(allow_nan=False)
configs = st.builds(
    Config,
    family=st.text(),
    shots=st.integers(min_value=1),
    learner=st.one_of(
        st.builds(MAML, step_size=floats),
        st.builds(
            MetaSGD,
            initial=st.tuples(floats, floats).map(lambda pair: (min(pair), max(pair))),
            granularity=st.sampled_from(["parameter", "layer"]),
        ),
    ),
    baseline=st.none() | st.builds(MAML, step_size=floats),
    hidden=st.lists(st.integers()).map(tuple),
    clip=st.none() | st.floats(min_value=0, exclude_min=True),
    limit=st.none() | st.integers(min_value=1),
    colour=st.sampled_from(Colour),
    first_order=st.booleans(),
    fraction=st.floats(0, 1),
    params=st.dictionaries(st.text(), floats),
    out=st.just(Path("a/b")),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(config=configs)
def test_toml_gives_back_an_equal_configuration(config: Config) -> None:
    table = tomllib.loads(to_toml(config))
    assert from_dict(Config, table) == config
    assert table == to_dict(config)


plain = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
tables = st.recursive(
    st.dictionaries(st.text(), plain, max_size=3),
    lambda inner: st.dictionaries(st.text(), plain | inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(table=tables)
def test_the_writer_is_the_inverse_of_the_standard_library_s_reader(table: dict[str, Any]) -> None:
    back = tomllib.loads(toml_writer.dumps(table))
    # repr tells 1 from 1.0 and True, and -0.0 from 0.0; order of keys may differ.
    assert repr(normal(back)) == repr(normal(table))


def normal(value: Any) -> Any:
    return {key: normal(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


def test_nan_and_infinity_come_back() -> None:
    back = tomllib.loads(toml_writer.dumps({"a": [math.nan, math.inf, -math.inf]}))["a"]
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf]


def test_the_writer_refuses_what_toml_cannot_hold() -> None:
    with pytest.raises(TypeError, match="None"):
        toml_writer.dumps({"a": [None]})


def test_a_configuration_file_reads_as_one_would_write_it() -> None:
    config = Config(family="sinusoid", learner=MAML(), clip=None)
    assert to_toml(config) == (
        'family = "sinusoid"\nshots = 5\nhidden = [40, 40]\nclip = "none"\ncolour = "red"\n'
        'first_order = false\nfraction = 0.5\nout = "runs"\niterations = 10\n\n'
        '[learner]\nkind = "maml"\nstep_size = 0.1\n\n[params]\n'
    )


def test_none_is_not_replaced_by_a_default_that_is_not_none() -> None:
    assert from_dict(Config, to_dict(Config(family="a", clip=None))).clip is None
    assert from_dict(Config, {"family": "a"}).clip == 10.0


def test_a_whole_number_is_a_float_where_one_is_wanted() -> None:
    config = from_dict(Config, {"family": "a", "clip": 3, "params": {"mass": 1}})
    assert repr(config.clip) == "3.0"
    assert repr(config.params["mass"]) == "1.0"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"shotz": 1}, "unknown key shotz; did you mean shots?"),
        ({"qqqqqq": 1}, "unknown key qqqqqq; known keys: family, shots, learner"),
        (
            {"learner": {"kind": "maml", "stepsize": 1.0}},
            "unknown key learner.stepsize; did you mean step_size?",
        ),
        ({"shots": -3}, "shots must be at least 1, got -3"),
        ({"shots": 0}, "shots must be at least 1, got 0"),
        ({"clip": -0.5}, "clip must be above 0, got -0.5"),
        ({"clip": math.nan}, "clip must be above 0, got nan"),
        ({"fraction": 1.5}, "fraction must be from 0 to 1, got 1.5"),
        ({"iterations": -1}, "iterations must be at least 0, got -1"),
        ({"shots": "5"}, "shots must be a whole number, got '5'"),
        ({"shots": 5.0}, "shots must be a whole number, got 5.0"),
        ({"shots": True}, "shots must be a whole number, got True"),
        ({"clip": True}, "clip must be a number, got True"),
        ({"clip": "big"}, "clip must be a number, got 'big'"),
        ({"first_order": 1}, "first_order must be true or false, got 1"),
        ({"family": 3}, "family must be text, got 3"),
        ({"out": 3}, "out must be a path, got 3"),
        ({"hidden": 40}, "hidden must be a list, got 40"),
        ({"hidden": [40, "x"]}, "hidden[1] must be a whole number, got 'x'"),
        ({"params": {"mass": "x"}}, "params.mass must be a number, got 'x'"),
        ({"params": [1]}, "params must be a table, got [1]"),
        ({"baseline": 1}, "baseline must be a table, got 1"),
        ({"colour": "green"}, "colour must be one of red, blue; got 'green'"),
        ({"learner": {}}, "learner.kind must be one of maml, meta-sgd; got None"),
        ({"learner": {"kind": "sgd"}}, "learner.kind must be one of maml, meta-sgd; got 'sgd'"),
        (
            {"learner": {"kind": "meta-sgd", "granularity": "row"}},
            "learner.granularity must be one of parameter, layer; got 'row'",
        ),
        (
            {"learner": {"kind": "meta-sgd", "initial": [1.0]}},
            "learner.initial must be 2 values, got [1.0]",
        ),
        (
            {"learner": {"kind": "meta-sgd", "initial": [2, 1]}},
            "in [learner]: initial must be lowest first, got (2.0, 1.0)",
        ),
    ],
)
def test_a_mistake_is_named_with_its_file_value_and_remedy(
    tmp_path: Path, entries: dict[str, Any], message: str
) -> None:
    table = {"family": "sinusoid", **entries}
    with pytest.raises(UsageError) as refusal:
        from_dict(Config, table)
    assert str(refusal.value).startswith(message)
    path = tmp_path / "config.toml"
    path.write_text(toml_writer.dumps(table))
    with pytest.raises(UsageError) as refusal:
        from_toml(Config, path)
    assert str(refusal.value).startswith(f"{path}: {message}")


def test_a_missing_key_a_missing_file_and_a_broken_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing key family; it has no default"):
        from_dict(Config, {})
    with pytest.raises(UsageError, match=r"cannot read .*absent.toml: No such file"):
        from_toml(Config, tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_bytes(b"a = \xff")
    with pytest.raises(UsageError, match=r"broken.toml is not TOML"):
        from_toml(Config, tmp_path / "broken.toml")


def test_a_contradiction_is_found_in_python_too() -> None:
    with pytest.raises(UsageError, match="shots must be at least 1, got -3"):
        Config(family="a", shots=-3)


def test_fields_that_differ_are_named_but_for_those_that_may() -> None:
    def differing(config: Config) -> list[str]:
        return differing_fields(Config, to_dict(Config(family="a")), to_dict(config))

    assert differing(Config(family="a")) == []
    assert differing(Config(family="a", iterations=99)) == []
    assert differing(Config(family="a", shots=6, learner=MetaSGD(initial=(0.0, 1.0)))) == [
        "learner.initial",
        "shots",
    ]
    assert differing(Config(family="a", learner=MAML())) == [
        "learner.granularity",
        "learner.initial",
        "learner.kind",
        "learner.step_size",
    ]
    nan = {"a": math.nan}
    assert differing_fields(Config, nan, nan) == []


def test_field_docs_are_the_sentences_under_the_fields() -> None:
    docs = field_docs(Config)
    assert list(docs) == [entry.name for entry in dataclasses.fields(Config)]
    assert docs["shots"] == "Examples per task."
    assert docs["fraction"] == "Share of tasks."
    assert docs["clip"] == ""
    assert field_docs(MetaSGD)["initial"] == "Range of the initial step sizes,\nlowest first."


@dataclass(frozen=True, kw_only=True)
class Longer(MAML):
    step_size: float = 0.2
    steps: int = 1
    """Inner steps."""


def test_field_docs_are_inherited() -> None:
    assert field_docs(Longer) == {"step_size": "Inner step size.", "steps": "Inner steps."}


def test_kinds_are_spelt_as_tyro_spells_subcommands() -> None:
    from tyro._strings import hyphen_separated_from_camel_case

    class ProMP: ...

    class MetaSGDSettings: ...

    class PPO2Head: ...

    for cls in (MAML, MetaSGD, ProMP, MetaSGDSettings, PPO2Head):
        assert kind_name(cls) == hyphen_separated_from_camel_case(cls.__name__)
    assert kind_name(MetaSGDSettings) == "meta-sgd-settings"
