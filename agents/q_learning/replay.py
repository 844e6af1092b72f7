"""A replay buffer for Q-learning from one's own steps and from demonstrations.

All steps lie in flat arrays: demonstrations first, which nothing evicts, then the ring into which
Stable-Baselines3 writes, seen by it as its usual (row, environment) arrays. One index hence names any
step, and a step's successor lies one further in a demonstration and `n_envs` further in the ring.

Each step of one's own keeps two rewards, the environment's and one for imitation, so that a change from
one to the other relabels nothing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from mtrl.agents.q_learning.batch import ReplayBatch, Successors
from mtrl.agents.q_learning.n_step import n_step_returns
from mtrl.agents.q_learning.transitions import Transitions
from mtrl.errors import CheckpointError, UsageError

__all__ = ["QReplayBuffer", "ReplaySettings"]

FIELDS = (
    "observations",
    "next_observations",
    "actions",
    "rewards",
    "imitation_rewards",
    "dones",
    "timeouts",
)


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """How steps are sampled."""

    n_steps: int = 1
    """Steps of a return; 1 is ordinary Q-learning."""
    gamma: float = 0.99
    """Discount inside an n-step return; must be the algorithm's."""
    demonstration_share: float | None = None
    """Share of a batch that demonstrations have; none draws from all steps alike."""
    seed: int | None = None
    """Of what is drawn; none takes one from the operating system."""

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise UsageError(f"n_steps is {self.n_steps}; a return has at least 1 step")
        if not 0 <= self.gamma <= 1:
            raise UsageError(f"gamma is {self.gamma}; a discount lies between 0 and 1")
        share = self.demonstration_share
        if share is not None and not 0 < share < 1:
            raise UsageError(
                f"demonstration_share is {share}; it lies between 0 and 1, none turns it off"
            )


class QReplayBuffer(ReplayBuffer):
    """A ring of one's own steps beside demonstrations; samples one-step and n-step returns.

    What Stable-Baselines3's `ReplayBuffer` takes, with `settings` beside it. Demonstrations take no place
    away from the ring.

    Attributes:
        imitation_weight: of the imitation rewards in what is sampled; the environment's have the rest.
        demonstration_share: of a batch; None draws from all steps alike.
        demonstrations: how many steps are demonstrations.

    Raises:
        UsageError: `optimize_memory_usage`, or observations that are no single array.
    """

    def __init__(self, *args: Any, settings: ReplaySettings | None = None, **kwargs: Any) -> None:
        if kwargs.get("optimize_memory_usage"):
            raise UsageError(
                "optimize_memory_usage is on; demonstrations and n-step returns need every step's own "
                "next observation, leave it off"
            )
        # Looked at before the base class, which fails on it without a reason.
        space = kwargs.get("observation_space", args[1] if len(args) > 1 else None)
        if isinstance(space, spaces.Dict):
            raise UsageError(
                f"the observation space is {space}; this buffer holds one array a step, flatten the "
                "observation (TaskContext can append the context)"
            )
        super().__init__(*args, **kwargs)
        self.settings = settings or ReplaySettings()
        self.imitation_weight = 0.0
        self.demonstration_share = self.settings.demonstration_share
        self.demonstrations = 0
        self._rng = np.random.default_rng(self.settings.seed)
        self.imitation_rewards = np.zeros_like(self.rewards)
        rows = self.buffer_size * self.n_envs
        self._flat: dict[str, NDArray[Any]] = {}
        for name in FIELDS:
            ring = getattr(self, name)
            self._flat[name] = ring.reshape(rows, *ring.shape[2:])

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copying and pickling part the ring from the flat arrays that it is a view of.
        self.__dict__.update(state)
        self._show_ring()

    def _show_ring(self) -> None:
        shape = (self.buffer_size, self.n_envs)
        for name, flat in self._flat.items():
            setattr(self, name, flat[self.demonstrations :].reshape(*shape, *flat.shape[1:]))

    @property
    def stored(self) -> int:
        """How many steps there are, demonstrations included."""
        return self.demonstrations + self.size() * self.n_envs

    # What comes in ------------------------------------------------------------------------------------

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a step of each environment, worth 0 as imitation; see `ReplayBuffer.add`."""
        self.imitation_rewards[self.pos] = 0
        super().add(*args, **kwargs)

    def label_newest(self, imitation_rewards: NDArray[Any]) -> None:
        """Set the imitation rewards, (n_envs,), of the steps added last."""
        self.imitation_rewards[self.pos - 1] = imitation_rewards

    def adopt_imitation_rewards(self) -> None:
        """Take the imitation rewards of all steps so far for the environment's, which are lost."""
        self._flat["rewards"][:] = self._flat["imitation_rewards"]

    def cut(self) -> None:
        """Declare that the next steps do not continue the newest ones, whose episodes end as truncated.

        To be called when the environment is reset from outside: no return may reach across.
        """
        if self.size() == 0:
            return
        newest = self.pos - 1
        self.timeouts[newest] = np.maximum(self.timeouts[newest], 1 - self.dones[newest])
        self.dones[newest] = 1

    def add_demonstrations(self, transitions: Transitions, imitation_rewards: float = 1.0) -> None:
        """Keep recorded transitions beside the ring for good.

        Args:
            transitions: N of them; the last one's episode ends there.
            imitation_rewards: what each is worth as imitation.

        Raises:
            UsageError: none at all, or arrays that do not fit the spaces.
        """
        added = _rows(transitions, self, imitation_rewards)
        self._replace_demonstrations(
            {
                name: np.concatenate([self._flat[name][: self.demonstrations], rows])
                for name, rows in added.items()
            }
        )

    def drop_demonstrations(self) -> None:
        """Forget all demonstrations."""
        self._replace_demonstrations({name: flat[:0] for name, flat in self._flat.items()})

    def _replace_demonstrations(self, rows: dict[str, NDArray[Any]]) -> None:
        ring = {name: flat[self.demonstrations :] for name, flat in self._flat.items()}
        self._flat = {name: np.concatenate([rows[name], ring[name]]) for name in FIELDS}
        self.demonstrations = len(rows["actions"])
        self._show_ring()

    # What comes out -----------------------------------------------------------------------------------

    # Stable-Baselines3 declares its own tuple; the batch has all the names of it.
    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> ReplayBatch:
        """Draw steps with replacement.

        Raises:
            UsageError: there is nothing to draw from.
        """
        if self.stored == 0:
            raise UsageError("the replay buffer is empty; add steps or demonstrations first")
        indices, weights = self._draw(batch_size)
        return self.batch(indices, weights, env)

    def uniform_indices(self, count: int) -> NDArray[np.int64]:
        """Draw `count` of all steps, each as probable as any other."""
        return self._rng.integers(0, self.stored, size=count)

    def _draw(self, batch_size: int) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        """Return indices, (batch,), and the weights of their losses, if they have any."""
        share = self.demonstration_share
        if share is None or self.demonstrations in (0, self.stored):
            return self.uniform_indices(batch_size), None
        expert = round(share * batch_size)
        parts = (
            self._rng.integers(0, self.demonstrations, size=expert),
            self._rng.integers(self.demonstrations, self.stored, size=batch_size - expert),
        )
        return np.concatenate(parts), None

    def batch(
        self,
        indices: NDArray[np.int64],
        weights: NDArray[np.float64] | None = None,
        env: VecNormalize | None = None,
    ) -> ReplayBatch:
        """Return the steps at `indices`, (batch,), with what follows them."""
        one_step = self._one_step(indices, env)
        several = self.settings.n_steps > 1
        is_expert = indices < self.demonstrations
        return ReplayBatch(
            observations=self._observations("observations", indices, env),
            actions=self.to_torch(self._flat["actions"][indices], copy=False),
            one_step=one_step,
            n_step=self._n_step(indices, env) if several else one_step,
            weights=None if weights is None else self._column(weights),
            demonstrations=self._column(is_expert) if self.demonstrations else None,
            indices=indices,
        )

    def _one_step(self, indices: NDArray[np.int64], env: VecNormalize | None) -> Successors:
        return Successors(
            rewards=self._column(self._rewards(indices, env)),
            observations=self._observations("next_observations", indices, env),
            dones=self._column(self._terminal(indices)),
        )

    def _n_step(self, indices: NDArray[np.int64], env: VecNormalize | None) -> Successors:
        path = self._path(indices)
        cuts = (self._flat["dones"][path] > 0) | self._is_newest(path)
        made = n_step_returns(self._rewards(path, env), cuts, self.settings.gamma)
        last = path[np.arange(len(path)), made.lengths - 1]
        return Successors(
            rewards=self._column(made.returns),
            observations=self._observations("next_observations", last, env),
            dones=self._column(self._terminal(last)),
            discounts=self._column(made.discounts),
        )

    def _path(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where n steps from each index on lie, (batch, n); beyond a cut they mean nothing."""
        steps = np.arange(self.settings.n_steps)
        start, first = indices[:, None], self.demonstrations
        ring = first + (start - first + steps * self.n_envs) % (self.buffer_size * self.n_envs)
        # The last demonstration is cut, so that whatever lies beyond it is never read.
        return np.where(start < first, np.minimum(start + steps, first - 1), ring)

    def _is_newest(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        newest = (self.pos - 1) % self.buffer_size
        begin = self.demonstrations + newest * self.n_envs
        found: NDArray[np.bool_] = (begin <= indices) & (indices < begin + self.n_envs)
        return found

    def _rewards(self, indices: NDArray[np.int64], env: VecNormalize | None) -> NDArray[np.float32]:
        weight = self.imitation_weight
        if weight == 1:
            imitation: NDArray[np.float32] = self._flat["imitation_rewards"][indices]
            return imitation
        own = self._normalize_reward(self._flat["rewards"][indices], env)
        if weight == 0:
            return own
        mixed = weight * self._flat["imitation_rewards"][indices] + (1 - weight) * own
        return mixed.astype(np.float32)

    def _terminal(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        ended: NDArray[np.float32] = self._flat["dones"][indices]
        terminal: NDArray[np.float32] = ended * (1 - self._flat["timeouts"][indices])
        return terminal

    def _observations(
        self, name: str, indices: NDArray[np.int64], env: VecNormalize | None
    ) -> Tensor:
        found = self._normalize_obs(self._flat[name][indices], env)
        assert isinstance(found, np.ndarray)
        return self.to_torch(found, copy=False)

    def _column(self, values: NDArray[Any]) -> Tensor:
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        return torch.as_tensor(values.reshape(-1, 1), device=self.device)

    # The whole state ----------------------------------------------------------------------------------

    def state_dict(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return (arrays, JSON values) from which `load_state_dict` goes on to the last bit."""
        arrays = {name: flat[: self.stored].copy() for name, flat in self._flat.items()}
        return arrays, {
            "pos": self.pos,
            "full": self.full,
            "demonstrations": self.demonstrations,
            "imitation_weight": self.imitation_weight,
            "demonstration_share": self.demonstration_share,
            "generator": self._rng.bit_generator.state,
        }

    def load_state_dict(self, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, of a buffer of the same size and spaces.

        Raises:
            CheckpointError: arrays that are missing or do not fit.
        """
        count, rows = int(values["demonstrations"]), self.buffer_size * self.n_envs
        stored = count + (rows if values["full"] else int(values["pos"]) * self.n_envs)
        flat = {}
        for name, own in self._flat.items():
            found = arrays.get(name)
            if found is None or found.shape != (stored, *own.shape[1:]) or found.dtype != own.dtype:
                what = "is missing" if found is None else f"is {found.dtype} {found.shape}"
                raise CheckpointError(
                    f"the replay buffer's array {name} {what} where {own.dtype} "
                    f"{(stored, *own.shape[1:])} is needed; make the buffer as it was when saved"
                )
            flat[name] = np.zeros((count + rows, *own.shape[1:]), own.dtype)
            flat[name][:stored] = found
        self._flat, self.demonstrations = flat, count
        self.pos, self.full = int(values["pos"]), bool(values["full"])
        self.imitation_weight = float(values["imitation_weight"])
        self.demonstration_share = values["demonstration_share"]
        self._rng.bit_generator.state = values["generator"]
        self._show_ring()


def _rows(
    transitions: Transitions, buffer: QReplayBuffer, imitation_reward: float
) -> dict[str, NDArray[Any]]:
    """Return the rows of `transitions` for each of a buffer's arrays."""
    count = len(transitions.actions)
    if count == 0:
        raise UsageError("the demonstrations are empty; record at least one transition")
    terminated = np.asarray(transitions.terminated, bool)
    ended = terminated | np.asarray(transitions.truncated, bool)
    # What follows the last row is another recording, or nothing.
    ended[-1:] = True
    given: dict[str, Any] = {
        "observations": transitions.observations,
        "next_observations": transitions.next_observations,
        "actions": transitions.actions,
        "rewards": transitions.rewards,
        "imitation_rewards": np.full(count, imitation_reward),
        "dones": ended,
        "timeouts": ended & ~terminated,
    }
    return {name: _fitting(name, given[name], buffer._flat[name], count) for name in FIELDS}


def _fitting(name: str, rows: Any, like: NDArray[Any], count: int) -> NDArray[Any]:
    array = np.asarray(rows)
    if name == "actions" and array.ndim == 1:
        array = array[:, None]
    if array.shape != (count, *like.shape[1:]):
        raise UsageError(
            f"the demonstrations' {name} have the shape {array.shape}, and the environment needs "
            f"{(count, *like.shape[1:])}; record them on this environment"
        )
    return array.astype(like.dtype)
