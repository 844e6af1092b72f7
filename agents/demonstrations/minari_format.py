"""Demonstrations from and to Minari's datasets (https://minari.farama.org, 0.5).

An episode there has one observation more than it has steps, `terminations` and `truncations`.
Converting needs nothing but arrays of that layout; reading and writing datasets needs Minari.
"""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from mtrl.agents.demonstrations.data import Demonstrations, Episode, joined
from mtrl.agents.demonstrations.spaces import require_space
from mtrl.errors import MissingExtraError, UsageError

__all__ = ["from_minari", "load_minari", "save_minari", "to_minari"]


class MinariEpisode(Protocol):
    """What is read of `minari.EpisodeData`."""

    observations: Any
    actions: Any
    rewards: Any
    terminations: Any
    truncations: Any


class MinariDataset(Protocol):
    """What is read of `minari.MinariDataset`."""

    @property
    def observation_space(self) -> gym.Space[Any]: ...
    @property
    def action_space(self) -> gym.Space[Any]: ...
    def iterate_episodes(self) -> Iterable[MinariEpisode]: ...


def from_minari(dataset: MinariDataset) -> Demonstrations:
    """Return all episodes of an open dataset.

    The last step of an episode that says neither counts as truncated: the recording stopped there.

    Raises:
        UsageError: an episode whose arrays do not fit each other, or what `Demonstrations` refuses.
    """
    spaces = dataset.observation_space, dataset.action_space
    episodes = [
        _episode(index, episode, *spaces)
        for index, episode in enumerate(dataset.iterate_episodes())
    ]
    return joined(episodes, *spaces)


def to_minari(demonstrations: Demonstrations) -> list[Mapping[str, Any]]:
    """Return the fields of a `minari.data_collector.EpisodeBuffer` for every episode."""
    return [
        {
            "id": index,
            "observations": np.concatenate([episode.observations, episode.next_observations[-1:]]),
            "actions": episode.actions,
            "rewards": episode.rewards,
            "terminations": episode.terminated,
            "truncations": episode.truncated,
        }
        for index, episode in enumerate(demonstrations)
    ]


def load_minari(
    dataset_id: str,
    *,
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
) -> Demonstrations:
    """Return a dataset that is installed under Minari's root folder; nothing is downloaded.

    Args:
        dataset_id: such as "cartpole/pid-v0".
        observation_space: of the environment that it is for; None takes any.
        action_space: of the environment that it is for; None takes any.

    Raises:
        MissingExtraError: Minari is not installed.
        UsageError: the dataset is not there, of other spaces, or what `from_minari` refuses.
    """
    minari = _minari()
    try:
        dataset = minari.load_dataset(dataset_id)
    except FileNotFoundError as error:
        raise UsageError(
            f"Minari has no dataset {dataset_id!r} here; minari.download_dataset gets one"
        ) from error
    require_space("observation_space", dataset.observation_space, observation_space)
    require_space("action_space", dataset.action_space, action_space)
    return from_minari(dataset)


def save_minari(demonstrations: Demonstrations, dataset_id: str, **details: Any) -> Any:
    """Make a dataset under Minari's root folder and return it.

    Args:
        demonstrations: all episodes of which go there.
        dataset_id: such as "cartpole/pid-v0", not there yet.
        **details: what `minari.create_dataset_from_buffers` takes besides, such as `author`.

    Raises:
        MissingExtraError: Minari is not installed.
    """
    minari = _minari()
    buffers = importlib.import_module("minari.data_collector")
    return minari.create_dataset_from_buffers(
        dataset_id,
        [buffers.EpisodeBuffer(**fields) for fields in to_minari(demonstrations)],
        observation_space=demonstrations.observation_space,
        action_space=demonstrations.action_space,
        **details,
    )


def _minari() -> Any:
    try:
        return importlib.import_module("minari")
    except ImportError as error:
        raise MissingExtraError(
            'Minari is not installed: pip install "minari[hdf5]"; '
            "read_demonstrations and write_demonstrations do without"
        ) from error


def _episode(
    index: int,
    episode: MinariEpisode,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
) -> Episode:
    if isinstance(episode.observations, Mapping | tuple):
        raise UsageError(
            f"episode {index} has observations of the space {observation_space}; demonstrations hold "
            "one array a step, flatten the observations"
        )
    observations = np.asarray(episode.observations, observation_space.dtype)
    rewards = np.asarray(episode.rewards, np.float64)
    terminated, truncated = (
        np.array(flags, np.bool_) for flags in (episode.terminations, episode.truncations)
    )
    actions: NDArray[Any] = np.asarray(episode.actions, action_space.dtype)
    lengths = [len(observations) - 1, len(actions), len(rewards), len(terminated), len(truncated)]
    if len(set(lengths)) > 1 or lengths[0] == 0:
        raise UsageError(
            f"episode {index} has {len(observations)} observations, {len(actions)} actions, "
            f"{len(rewards)} rewards and {len(terminated)} terminations; it needs one observation "
            "more than the others, and at least one step"
        )
    truncated[-1] |= not terminated[-1]
    truncated &= ~terminated
    return Episode(observations[:-1], actions, rewards, observations[1:], terminated, truncated)
