"""Agents of Stable-Baselines3 in a directory: no pickle is written or read.

What is loaded cannot run code, wherever it comes from: tensors are safetensors, all else JSON, and
every file's digest is checked first. The class of the agent is the caller's to name.
"""

from pathlib import Path
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm

from mtrl.agents.saving.agent import agent_state, load_agent_state, refusals
from mtrl.agents.saving.arguments import arguments_state, check_given, construct
from mtrl.checkpoint import CheckpointStore
from mtrl.errors import CheckpointError

__all__ = ["load_agent", "save_agent"]

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)


def save_agent(model: BaseAlgorithm, directory: Path | str, *, keep: int = 2) -> Path:
    """Store an agent, of any algorithm, as the checkpoint of its `num_timesteps`; return its folder.

    See `agent_state` for what is stored and when to call this. Older checkpoints beyond `keep` are
    removed.

    Raises:
        UsageError: there is a good checkpoint of that many steps already, or the agent holds
            something that a checkpoint cannot.
        MtrlError: the disk refuses.
    """
    tensors, state = agent_state(model)
    content = {"agent": state, "arguments": arguments_state(model)}
    return CheckpointStore(directory, keep).save(model.num_timesteps, tensors, content)


def load_agent(
    algorithm: type[Algorithm],
    directory: Path | str,
    env: Any,
    *,
    step: int | None = None,
    continue_training: bool = True,
    **arguments: Any,
) -> Algorithm:
    """Return the agent that `save_agent` stored in `directory`.

    It goes on by `learn(..., reset_num_timesteps=False)`; see `load_agent_state`.

    Args:
        algorithm: its class, such as `PPO`.
        directory: as it was given to `save_agent`.
        env: as it was made for the saved agent: wrapped alike, with as many sub-environments.
        step: which checkpoint; without one, the newest that is good.
        continue_training: off, only networks and the moments of `VecNormalize` are loaded, and `env`
            may have any number of sub-environments.
        **arguments: of the constructor, in place of the stored ones; those that could not be stored,
            such as functions and classes of your own, must be given.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another algorithm or architecture.
        UsageError: an argument must be given.
    """
    checkpoint = CheckpointStore(directory).load(step)
    if not {"agent", "arguments"} <= checkpoint.state.keys():
        raise CheckpointError(f"the checkpoint in {directory} is not one of an agent")
    saved = checkpoint.state["agent"]
    check_given(checkpoint.state["arguments"], arguments)
    with refusals():
        name = saved["identity"]["algorithm"]
        if name != algorithm.__name__:
            raise CheckpointError(
                f"the agent in {directory} is a {name}, not a {algorithm.__name__}; load it as such"
            )
        model = construct(algorithm, checkpoint.state["arguments"], env, arguments)
    load_agent_state(model, checkpoint.tensors, saved, continue_training=continue_training)
    assert isinstance(model, algorithm)
    return model
