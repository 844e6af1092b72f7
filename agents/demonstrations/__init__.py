"""Demonstrations: recorded episodes of an expert, their files, and sets of them for a family's tasks."""

from mtrl.agents.demonstrations.data import Demonstrations, Episode
from mtrl.agents.demonstrations.files import read_demonstrations, write_demonstrations
from mtrl.agents.demonstrations.minari_format import (
    from_minari,
    load_minari,
    save_minari,
    to_minari,
)
from mtrl.agents.demonstrations.per_task import TaskDemonstrations, record_tasks
from mtrl.agents.demonstrations.recording import record

__all__ = [
    "Demonstrations",
    "Episode",
    "TaskDemonstrations",
    "from_minari",
    "load_minari",
    "read_demonstrations",
    "record",
    "record_tasks",
    "save_minari",
    "to_minari",
    "write_demonstrations",
]
