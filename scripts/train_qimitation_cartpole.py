"""Imitate a PID controller on cart-pole, then learn from the true reward on the same Q-network.

    python scripts/train_qimitation_cartpole.py --dir runs/qimitation
    python scripts/train_qimitation_cartpole.py --dir runs/qimitation-rl --mode rl --training.episodes 200

The cart-pole is that of AQIL (Zhang and Agarwal 2020): it fails at 50 degrees. TensorBoard shows both
rewards, the agreement with the expert, the Q-values' level before and after the switch, and the
regret to the expert:

    tensorboard --logdir runs

The agent is in `DIR/agent`; `mtrl.agents.saving.load_agent` loads it. `mtrl reproduce aqil` compares
the modes on ten seeds.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from mtrl.agents.experts import CartPoleExpert, model_expert
from mtrl.agents.q_learning import Budget, Mode, Plan
from mtrl.agents.saving import save_agent
from mtrl.errors import guarded
from mtrl.reproduce.aqil_training import AqilSettings, carry_over, make_agent, play
from mtrl.reproduce.aqil_watching import CHARTS, EpisodeLog
from mtrl.runs import Run

EXPERT_EPISODES = 100


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is trained, and where it is written."""

    dir: Path
    """Run directory; must not hold a run."""
    mode: Mode = "imitation-then-rl"
    """Which phases there are; all modes have the same number of episodes."""
    seed: int = 0
    """Of all random streams."""
    training: AqilSettings = field(default_factory=AqilSettings)
    """The training; as in `mtrl reproduce aqil` unless changed."""


def main() -> None:
    """Train as the command line says, and print how the policy compares with the expert."""
    settings = tyro.cli(Settings, description=__doc__)
    how = settings.training
    plan = Plan(
        mode=settings.mode,
        total=Budget(episodes=how.episodes),
        imitation_share=how.imitation_episodes / how.episodes,
        carry_over=carry_over(how),
    )
    expert = CartPoleExpert.of_paper(how.derivative)
    test = {"step_limit": how.step_limit, "seed": settings.seed, "expert": expert}
    level = float(play(expert, EXPERT_EPISODES, **test)[0].mean())
    agent = make_agent(how, settings.seed)
    with Run.open(settings.dir, config=how, kind="q-imitation") as run:
        run.manifest.update(mode=settings.mode, seed=settings.seed, expert_level=level)
        run.tracker.layout(CHARTS)
        log = EpisodeLog(run, level)
        plan.run(agent, expert=None if settings.mode == "rl" else expert, callback=log)
        save_agent(agent, settings.dir / "agent")
    returns, agreement = play(model_expert(agent), how.test_episodes, **test)
    print(f"the expert                {level:8.0f}")
    print(f"mean of training episodes {sum(log.returns) / len(log.returns):8.0f}")
    print(f"best training episode     {max(log.returns):8.0f}")
    print(
        f"greedy policy at the end  {returns.mean():8.0f}, agrees in {agreement:.0%} of its steps"
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
