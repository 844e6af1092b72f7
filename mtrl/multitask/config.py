"""Settings of a multi-task training run."""

from dataclasses import dataclass, field
from pathlib import Path

from mtrl.agents.balancing import FAMO, BalancerConfig, GradNorm, NashMTL, Sum
from mtrl.agents.networks import MLP, NetworkConfig, OneHot
from mtrl.agents.objectives import Objective
from mtrl.config import check_at_least, check_positive
from mtrl.curricula import CurriculumConfig, LevelReplay
from mtrl.errors import UsageError
from mtrl.multitask.algorithms import DQN, PPO, SAC

__all__ = ["MultiTaskConfig", "ObjectiveConfig"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What the tasks are trained for."""

    objective: Objective = "mean-return"
    """Mean return, worst return, or worst regret."""
    step_size: float = 0.01
    """Of the weights of tasks, in 1 / unit of the losses; unused for the mean return."""
    best: tuple[float, ...] = ()
    """The best return of each task alone, for a regret."""
    random: tuple[float, ...] = ()
    """The return of each task without any learning, for a normalised regret."""

    def __post_init__(self) -> None:
        check_positive(self, "step_size")


@dataclass(frozen=True, kw_only=True)
class MultiTaskConfig:
    """Training one agent on many tasks of a family."""

    family: str = "cartpole"
    """Task family; `mtrl families` lists them. One that ends in .toml is read from that file."""
    preset: str | None = None
    """The family's preset; its first if left out."""
    family_options: dict[str, bool | int | float] = field(default_factory=dict)
    """Arguments of the family that replace the preset's, such as horizon."""
    tasks: int = 10
    """Tasks drawn from the family's train split."""
    task_file: Path | None = None
    """File of tasks, one in JSON per line, in place of drawing them."""
    algorithm: PPO | DQN | SAC = field(default_factory=PPO)
    """What trains the agent."""
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig(trunk=MLP(hidden=(64, 64)), conditioning=OneHot())
    )
    """Trunk, conditioning and heads."""
    balancer: BalancerConfig = field(default_factory=Sum)
    """How the tasks' gradients of a trunk become one."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What the tasks are trained for."""
    curriculum: CurriculumConfig | None = None
    """What chooses the task of every episode; without, each task has environments of its own."""
    solved_at: float | None = None
    """Return from which on an episode counts as a success; as the family says if left out."""
    scale_rewards: bool = False
    """Whether each task's rewards are divided by the deviation of its discounted returns."""
    envs_per_task: int = 4
    """Environments that play each task side by side; with a curriculum, as many in all."""
    total_steps: int = 200_000
    """Environment steps of the run, of all tasks together."""
    log_every: int = 2000
    """Environment steps between two points of the curves."""
    evaluate_every: int = 20_000
    """Environment steps between two evaluations."""
    eval_episodes: int = 10
    """Episodes that an evaluation plays of each task, without exploration."""
    checkpoint_every: int = field(default=20_000, metadata={"resumable": True})
    """Environment steps between two checkpoints."""
    seed: int = 0
    """Of the tasks and of all random streams."""
    device: str = field(default="cpu", metadata={"resumable": True})
    """Torch device."""

    def __post_init__(self) -> None:
        check_positive(self, "tasks", "envs_per_task", "total_steps", "log_every")
        check_positive(self, "evaluate_every", "eval_episodes", "checkpoint_every")
        check_at_least(self, 0, "seed")
        self._check_weights()
        self._check_curriculum()

    def _check_curriculum(self) -> None:
        if self.curriculum and self.scale_rewards and not isinstance(self.algorithm, PPO):
            raise UsageError(
                "scale_rewards with a curriculum is for ppo: in the replay buffer of dqn and sac, tasks "
                "have the curriculum's shares and no scales of their own; leave one of the two out"
            )
        robust = isinstance(self.curriculum, LevelReplay) and self.curriculum.robust
        if robust and not isinstance(self.algorithm, PPO):
            raise UsageError(
                "robust in level-replay is for ppo, whose rollouts can leave out what is only to be "
                "scored; the replay buffer of dqn and sac keeps every step, so leave one of the two out"
            )

    def _check_weights(self) -> None:
        objective = self.objective.objective
        if objective != "mean-return" and isinstance(self.balancer, GradNorm | NashMTL | FAMO):
            raise UsageError(
                f"balancer is {type(self.balancer).__name__}, which levels the tasks' gradients again "
                f"that the objective {objective} has weighed; choose sum, pc-grad, ca-grad or up-grad, "
                "or the objective mean-return"
            )
