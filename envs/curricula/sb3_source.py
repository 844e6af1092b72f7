"""How a curriculum reaches Stable-Baselines3: one wrapper for every `VecEnv` of our environments.

Every `VecEnv` resets itself inside `step`, so that each environment holds one task that was drawn
ahead, as in `VectorCurriculumSource`. Nothing in Stable-Baselines3 is changed: tasks are pushed by
`env_method("set_task_source", task)`, and results credited by `infos[i]["task_id"]`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from mtrl.envs.curricula.credit import Judge, credit
from mtrl.envs.curricula.level_replay import LevelReplay
from mtrl.envs.curricula.protocol import Curriculum, Proposal
from mtrl.envs.sb3_env import BatchedVecEnv
from mtrl.envs.task import Task
from mtrl.envs.workers.sb3_env import WorkerVecEnv
from mtrl.envs.wrappers.task_statistics import SUCCESS_KEYS
from mtrl.errors import CheckpointError, UsageError

__all__ = ["CurriculumVecEnv", "find_curriculum_env"]

_CURRICULUM = "curriculum/"


class CurriculumVecEnv(VecEnvWrapper):
    """Environments that play the curriculum's proposals, and whose results teach it.

    Put it next to the environments: `MultiTaskVecEnv(..., assign=False)`, `VecMonitor` and
    `VecNormalize` belong outside. An episode that an explicit reset cuts off, that plays the task of
    `set_options({"task": task})`, or whose worker was restarted, is not credited.

    A curriculum of scores is told nothing here; `mtrl.agents.level_scores.LevelScores` tells it.

    Args:
        venv: `family.make_sb3(...)`, a `WorkerVecEnv`, or a `DummyVecEnv` or `SubprocVecEnv` of
            `family.make(...)`; which tasks it was made with does not matter.
        curriculum: proposes tasks of that family.
        judge: makes the outcome, where it is not the return or the reported success.

    Attributes:
        played: per environment, the proposal under way; None if the task came from outside.
        watch: called with every proposal credited and its outcome, None of a curriculum of scores.

    Raises:
        UsageError: tasks of single environments cannot be chosen.
    """

    def __init__(self, venv: VecEnv, curriculum: Curriculum, *, judge: Judge | None = None) -> None:
        known = isinstance(venv.unwrapped, BatchedVecEnv | WorkerVecEnv)
        if not known and not venv.has_attr("set_task_source"):
            raise UsageError(
                f"the environments of {venv} cannot be given a task; use family.make_sb3, "
                "WorkerVecEnv, or a DummyVecEnv or SubprocVecEnv of family.make"
            )
        super().__init__(venv)
        self.curriculum, self.judge = curriculum, judge
        self.watch: Callable[[Proposal, float | None], None] | None = None
        self.played: list[Proposal | None] = [None] * self.num_envs
        self._ahead: list[Proposal] = []
        self._chosen = [False] * self.num_envs
        self._totals = np.zeros(self.num_envs)
        self._successes: list[bool | None] = [None] * self.num_envs
        # Who judges by the return need not look for a success in every info.
        self._watches = judge is None and curriculum.outcome == "success"

    # Tasks

    def _push(self, slot: int) -> None:
        self.venv.env_method("set_task_source", self._ahead[slot].task, indices=[slot])

    def _draw(self, slots: Iterable[int]) -> None:
        """Play what was drawn ahead, where episodes have just begun, and draw again."""
        for slot in slots:
            self.played[slot] = self._ahead[slot]
            (self._ahead[slot],) = self.curriculum.propose(1)
            self._push(slot)
            self._begin(slot)

    def _begin(self, slot: int) -> None:
        self._totals[slot], self._successes[slot] = 0.0, None

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Keep options for the next reset; a task among them is played and not credited."""
        each = options if isinstance(options, list) else [options or {}] * self.num_envs
        self._chosen = [one.get("task") is not None for one in each]
        self.venv.set_options(options)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environments; one that a `reset` begins anew plays the next task.

        Raises:
            UsageError: it is `set_task_source`, which is the curriculum's.
        """
        if method_name == "set_task_source":
            raise UsageError(
                "the curriculum chooses the tasks of these environments: make MultiTaskVecEnv with "
                "assign=False. A task whose numbers are not finite cannot be replaced by another; "
                "leave it out of the curriculum's tasks"
            )
        found: list[Any] = self.venv.env_method(
            method_name, *method_args, indices=indices, **method_kwargs
        )
        if method_name == "reset":
            self._draw(self._get_indices(indices))
        return found

    @property
    def selects(self) -> bool:
        """Whether the curriculum keeps some episodes from being learnt from, as robust level replay does."""
        return isinstance(self.curriculum, LevelReplay) and self.curriculum.settings.robust

    def trains(self) -> NDArray[np.bool_]:
        """Return in which environments (environments,) the agent may learn from the episode under way.

        It may everywhere unless the curriculum `selects`, and always from what it did not propose.
        """
        if not self.selects:
            return np.ones(self.num_envs, np.bool_)
        replay: Any = self.curriculum
        return np.array([played is None or replay.trains(played) for played in self.played])

    # Episodes

    def reset(self) -> Any:
        """Begin episodes of the tasks drawn ahead, but where the options choose a task."""
        if not self._ahead:
            self._ahead = self.curriculum.propose(self.num_envs)
            for slot in range(self.num_envs):
                self._push(slot)
        observations = self.venv.reset()
        for slot, chosen in enumerate(self._chosen):
            if chosen:
                self.played[slot] = None
                self._begin(slot)
        self._draw(slot for slot, chosen in enumerate(self._chosen) if not chosen)
        self._chosen = [False] * self.num_envs
        return observations

    def step_wait(
        self,
    ) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Take the step; episodes that end are credited."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self._totals += rewards
        if self._watches:
            self._see_successes(infos)
        ended = dones.nonzero()[0].tolist()
        # All results are in before the first draw, as in every other wrapper.
        for slot in ended:
            self._finish(slot, infos[slot])
        self._draw(ended)
        return observations, rewards, dones, infos

    def _see_successes(self, infos: list[dict[str, Any]]) -> None:
        for slot, info in enumerate(infos):
            for key in SUCCESS_KEYS:
                if key in info:
                    self._successes[slot] = bool(self._successes[slot]) or bool(info[key])

    def _finish(self, slot: int, info: dict[str, Any]) -> None:
        played = self.played[slot]
        if played is None or "worker_restarted" in info:
            return
        episode = {"r": self._totals[slot], "task_id": info.get("task_id")}
        if self._successes[slot] is not None:
            episode["success"] = self._successes[slot]
        outcome = credit(self.curriculum, self.judge, played, episode)
        if self.watch is not None:
            self.watch(played, outcome)

    # Checkpoints

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return (tensors, JSON values): the curriculum, tasks drawn ahead, and episodes under way."""
        tensors, values = self.curriculum.state_dict()
        saved = {f"{_CURRICULUM}{name}": tensor for name, tensor in tensors.items()}
        return saved | {"totals": torch.from_numpy(self._totals.copy())}, {
            "curriculum": values,
            "played": [_written(proposal) for proposal in self.played],
            "ahead": [_written(proposal) for proposal in self._ahead],
            "successes": list(self._successes),
        }

    def load_state_dict(
        self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]
    ) -> None:
        """Continue where `state_dict` was taken of as many environments.

        Environments that cannot continue their episodes begin anew with the tasks drawn ahead, and
        the episodes that were under way are not credited.

        Raises:
            CheckpointError: it is of another number of environments, or of another curriculum.
        """
        if len(values["played"]) != self.num_envs:
            raise CheckpointError(
                f"the curriculum's checkpoint has {len(values['played'])} environments, and there "
                f"are {self.num_envs} here; make as many as it has"
            )
        own = {
            name.removeprefix(_CURRICULUM): tensor
            for name, tensor in tensors.items()
            if name.startswith(_CURRICULUM)
        }
        self.curriculum.load_state_dict(own, values["curriculum"])
        self.played = [_read(text) for text in values["played"]]
        self._ahead = [proposal for text in values["ahead"] if (proposal := _read(text))]
        self._totals = tensors["totals"].numpy().copy()
        self._successes = list(values["successes"])
        for slot in range(len(self._ahead)):
            self._push(slot)


def find_curriculum_env(env: Any) -> CurriculumVecEnv | None:
    """Return the `CurriculumVecEnv` that `env` is or wraps, if there is one."""
    inner = env
    while inner is not None and not isinstance(inner, CurriculumVecEnv):
        inner = getattr(inner, "venv", None)
    return inner


def _written(proposal: Proposal | None) -> dict[str, Any] | None:
    if proposal is None:
        return None
    return {"task": proposal.task.to_json(), "label": proposal.label}


def _read(saved: Mapping[str, Any] | None) -> Proposal | None:
    if saved is None:
        return None
    return Proposal(task=Task.from_json(saved["task"]), label=saved["label"])
