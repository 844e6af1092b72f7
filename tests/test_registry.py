"""Facts about finding task families by name."""

import tomllib
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

import numpy as np
import pytest

from mtrl.envs import registry
from mtrl.envs.family import FamilySpec, FewShotFamily, TaskFamily
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.registry import GROUP, family_names, family_spec, get_family
from mtrl.errors import MtrlError, UsageError

THIRD_PARTY = """
from mtrl.envs.family import FamilySpec
from mtrl.envs.navigation2d import Navigation2D

class Wide(Navigation2D):
    name = "wide"

wide = FamilySpec(name="wide", factory=Wide, presets={"long": {"horizon": 7}}, summary="")
not_a_spec = Wide
"""


class _Distribution(Distribution):
    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def read_text(self, filename: str) -> str | None:
        return None

    def locate_file(self, path: object) -> Path:
        return Path(str(path))


def _declare(monkeypatch: pytest.MonkeyPatch, *declared: tuple[str, str, str]) -> None:
    points = [
        # The private method is how importlib.metadata itself ties a point to its distribution.
        EntryPoint(name, value, GROUP)._for(_Distribution(owner))  # type: ignore[attr-defined]
        for name, value, owner in declared
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == GROUP else [])


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_families.py").write_text(THIRD_PARTY)
    (tmp_path / "their_broken.py").write_text("import no_such_module_anywhere")
    monkeypatch.syspath_prepend(tmp_path)


def test_our_families_are_known_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    _declare(monkeypatch)
    assert family_names() == sorted(registry._BUILT_IN)
    assert {"cartpole", "navigation2d", "sinusoid"} < set(family_names())
    assert isinstance(get_family("navigation2d"), TaskFamily)
    assert isinstance(get_family("sinusoid"), FewShotFamily)


def test_the_package_declares_the_families_that_we_know() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][GROUP] == registry._BUILT_IN


def test_our_own_metadata_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("sinusoid", "mtrl.envs.sinusoid:sinusoid", "mtrl-suite")
    _declare(monkeypatch, ours, ours)
    assert family_spec("sinusoid").name == "sinusoid"


def test_every_preset_of_every_family_makes_a_family_that_samples() -> None:
    for name in family_names():
        for preset in family_spec(name).presets:
            family = get_family(name, preset)
            assert family.name == name
            task = family.sample(1, np.random.default_rng(0), "test")[0]
            assert task.family == name
            assert family.context(task).dtype == np.float32


def test_presets_and_overrides() -> None:
    assert get_family("navigation2d") == get_family("navigation2d", "fixed-start") == Navigation2D()
    varying = get_family("navigation2d", "varying-start", terminate_at_goal=True)
    assert varying == Navigation2D(varying_start=True, terminate_at_goal=True)
    assert get_family("navigation2d", "varying-start", varying_start=False) == Navigation2D()


def test_unknown_names_are_answered_with_the_nearest_and_the_list() -> None:
    with pytest.raises(UsageError, match="'navigation2d'.*navigation2d, pendulum, sinusoid"):
        get_family("navigaton2d")
    with pytest.raises(UsageError, match="did you mean 'meta-sgd'.*maml, meta-sgd"):
        get_family("sinusoid", "metasgd")
    with pytest.raises(UsageError, match="did you mean 'horizon'.*terminate_at_goal"):
        get_family("navigation2d", horzion=3)
    with pytest.raises(UsageError) as caught:
        get_family("zzz")
    assert "did you mean" not in str(caught.value)


def test_a_family_needs_a_preset() -> None:
    with pytest.raises(UsageError, match="'f' has no presets"):
        FamilySpec(name="f", factory=Navigation2D, presets={}, summary="")


@pytest.mark.usefixtures("third_party")
def test_a_third_party_adds_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    _declare(monkeypatch, ("wide", "their_families:wide", "their-dist"))
    assert family_names() == sorted([*registry._BUILT_IN, "wide"])
    family = get_family("wide")
    assert (family.name, family.horizon) == ("wide", 7)


@pytest.mark.usefixtures("third_party")
def test_a_broken_package_harms_its_own_family_only(monkeypatch: pytest.MonkeyPatch) -> None:
    _declare(
        monkeypatch,
        ("broken", "their_broken:family", "their-dist"),
        ("missing", "their_families:gone", "their-dist"),
        ("odd", "their_families:not_a_spec", "their-dist"),
    )
    assert get_family("navigation2d") == Navigation2D()
    with pytest.raises(MtrlError, match=r"'broken' of their-dist \(their_broken:family\).*no_such"):
        get_family("broken")
    with pytest.raises(MtrlError, match=r"'missing' of their-dist.*gone"):
        get_family("missing")
    with pytest.raises(MtrlError, match=r"'odd' of their-dist.*FamilySpec"):
        get_family("odd")


@pytest.mark.usefixtures("third_party")
def test_two_packages_with_one_name_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _declare(
        monkeypatch,
        ("wide", "their_families:wide", "one-dist"),
        ("wide", "other_families:wide", "two-dist"),
        ("sinusoid", "their_families:wide", "one-dist"),
    )
    with pytest.raises(UsageError, match=r"'wide'.*one-dist.*two-dist"):
        get_family("wide")
    with pytest.raises(UsageError, match=r"'sinusoid'.*mtrl-suite.*one-dist"):
        get_family("sinusoid")
    assert get_family("navigation2d") == Navigation2D()


def test_old_metadata_of_our_own_distribution_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    _declare(monkeypatch, ("navigation2d", "mtrl.envs.moved_away:navigation2d", "mtrl-suite"))
    assert isinstance(get_family("navigation2d"), Navigation2D)
