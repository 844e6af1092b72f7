"""`mtrl report` on runs whose configuration does not name their learner, as their kind has no other."""

from pathlib import Path
from typing import Any, get_type_hints

import pytest
from test_report import report, rows, tables

from mtrl.config import kind_name
from mtrl.meta.kinds import KINDS
from mtrl.meta.pearl.config import PearlConfig
from mtrl.meta.recurrent.training import RecurrentConfig
from mtrl.metrics import read_metrics
from mtrl.report.reading import ONLY_LEARNERS
from mtrl.runs import Run


def test_rl2_and_pearl_are_called_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtrl.meta.watching.Pictures.draw", lambda *arguments: None)
    monkeypatch.setattr("mtrl.report.drawing.find_spec", lambda name: None)
    tiny: dict[str, Any] = {"iterations": 1, "test_tasks": 3, "family_options": {"horizon": 4}}
    rl2 = RecurrentConfig(
        family="navigation2d", tasks_per_batch=4, episodes_per_trial=2, test_trials=2, **tiny
    )
    pearl = PearlConfig(
        tasks=4, tasks_per_batch=2, tasks_per_collection=2, gradient_steps=2, test_steps=1, **tiny
    )
    for kind, config in (("recurrent", rl2), ("pearl", pearl)):
        with Run.open(tmp_path / kind, config=config, kind=kind) as run:
            KINDS[kind].train(config, run)
    page = report(tmp_path)
    found = {row["run"]: row for row in rows(tables(page, "Runs")[0])}
    assert {name: row["learner"] for name, row in found.items()} == {
        "recurrent": "rl2",
        "pearl": "pearl",
    }
    # Also where they stand beside each other, and with what they reached.
    assert {name: row["experiment"] for name, row in found.items()} == {
        "recurrent": "rl2",
        "pearl": "pearl",
    }
    for name, row in found.items():
        logged = read_metrics(tmp_path / name / "metrics.csv")
        for column, tag in (("before", "return_after_0"), ("after", "return_after_1")):
            assert float(row[column]) == pytest.approx(logged[f"adapt/{tag}"].values[-1], rel=1e-3)


def test_every_kind_with_one_learner_is_known() -> None:
    learners = {
        name: kind_name(get_type_hints(kind.config)["learner"])
        for name, kind in KINDS.items()
        if isinstance(get_type_hints(kind.config).get("learner"), type)
    }
    assert learners == ONLY_LEARNERS
