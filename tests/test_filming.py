"""Films show the very episodes that an evaluation counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from mtrl.agents.networks import MLP, NetworkConfig, OneHot
from mtrl.cli import main
from mtrl.envs.registry import get_family
from mtrl.errors import MtrlError, UsageError
from mtrl.evaluation.adaptation import AdaptationProtocol, adaptation_returns
from mtrl.evaluation.filming import Episode, film_adaptation, play_again
from mtrl.meta.agent import Transition
from mtrl.multitask.algorithms import PPO
from mtrl.multitask.config import MultiTaskConfig
from mtrl.multitask.filming import play_each
from mtrl.multitask.trained import load_multitask_run
from mtrl.multitask.training import train_multitask
from mtrl.runs import Run


class Mover:
    """Acts at random before it adapts; then goes by (0.5, 0), or chooses 1."""

    name = "mover"

    def __init__(self, choices: int | None = None) -> None:
        self.choices, self.adapted = choices, 0

    def begin(self, n_tasks: int) -> None:
        self.adapted = 0

    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        shape = observations.shape[:2]
        if self.choices is not None:
            drawn = torch.randint(self.choices, shape, generator=generator)
            return torch.ones_like(drawn) if self.adapted else drawn
        drawn = torch.rand((*shape, 2), generator=generator) * 3 - 1.5
        return torch.tensor([0.5, 0.0]).expand_as(drawn) if self.adapted else drawn

    def observe(self, transition: Transition) -> None:
        pass

    def adapt(self) -> None:
        self.adapted += 1


PROTOCOL = AdaptationProtocol(episodes=1, steps=2)


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize(
    ("name", "choices"), [("navigation2d", None), ("cartpole", 2), ("hexagon", 3)]
)
def test_a_film_is_of_the_episodes_whose_returns_are_measured(
    name: str, choices: int | None
) -> None:
    family = get_family(name)
    (task,) = family.sample(1, np.random.default_rng(3), "test")
    returns = adaptation_returns(Mover(choices), family, [task], PROTOCOL, chance())
    episodes = film_adaptation(Mover(choices), family, task, PROTOCOL, chance())
    films = [play_again(family, task, episode, width=60) for episode in episodes]
    assert [film.total for film in films] == pytest.approx(returns[0, [0, 2]], rel=1e-5)
    for film, episode in zip(films, episodes, strict=True):
        assert len(film.frames) == len(episode.actions) + 1
        assert film.frames.shape[2] == 60
    # One generator, one film.
    again = film_adaptation(Mover(choices), family, task, PROTOCOL, chance())
    assert_array_equal(play_again(family, task, again[0], width=60).frames, films[0].frames)


def test_the_pictures_are_those_of_the_states_gone_through() -> None:
    family = get_family("navigation2d")
    (task,) = family.sample(1, np.random.default_rng(3), "test")
    _, after = film_adaptation(Mover(), family, task, PROTOCOL, chance())
    film = play_again(family, task, after, width=128)
    blue = (film.frames == (30, 60, 200)).all(3)
    # 64 pixels stand for a length of 1, and a step goes 0.05 to the right.
    middles = np.array([np.argwhere(frame)[:, 1].mean() for frame in blue[:10]])
    np.testing.assert_allclose(np.diff(middles), 3.2, atol=0.6)


def test_an_episode_that_comes_out_otherwise_is_refused() -> None:
    family = get_family("navigation2d")
    (task,) = family.sample(1, np.random.default_rng(3), "test")
    episode = Episode(seed=1, actions=[np.zeros(2, np.float32)] * 3, total=-1000.0)
    with pytest.raises(MtrlError, match="return was -1000, and .* when played again"):
        play_again(family, task, episode, width=60)
    bandit = get_family("bandit")
    (arm,) = bandit.sample(1, np.random.default_rng(3), "test")
    with pytest.raises(UsageError, match="render_mode is 'rgb_array'"):
        play_again(bandit, arm, Episode(seed=1), width=60)


@pytest.fixture(scope="module")
def multitask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = MultiTaskConfig(
        tasks=2,
        envs_per_task=1,
        network=NetworkConfig(trunk=MLP(hidden=(6,)), conditioning=OneHot()),
        algorithm=PPO(n_steps=16, batch_size=16, n_epochs=1),
        total_steps=64,
        eval_episodes=1,
    )
    directory = tmp_path_factory.mktemp("film") / "many"
    with Run.open(directory, config=config, kind="multitask") as run:
        train_multitask(config, run)
    return directory


def test_a_multi_task_agent_is_filmed_as_it_is_evaluated(multitask: Path) -> None:
    trained = load_multitask_run(multitask)
    episodes = play_each(trained, seed=4)
    scores = trained.scores(1, 4)
    assert_array_equal([episode.total for episode in episodes], scores.returns[:, 0])
    for task, episode in zip(trained.tasks, episodes, strict=True):
        assert play_again(trained.family, task, episode, width=60).total == episode.total


def test_the_command_leaves_animations_in_the_run_and_in_tensorboard(
    multitask: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["film", str(multitask), "--tasks", "1", "--frames", "5", "--width", "60"]) == 0
    (file,) = (multitask / "films").glob("*.gif")
    (task, *_) = load_multitask_run(multitask).tasks
    assert file.stem == task.id
    assert "return" in capsys.readouterr().err
    shown = EventAccumulator(str(multitask)).Reload()
    (image,) = shown.Images("videos/task_0")
    assert image.encoded_image_string == file.read_bytes()
    with Image.open(file) as read:
        assert 1 < read.n_frames <= 5  # type: ignore[attr-defined]
    assert main(["film", str(multitask), "--steps", "2"]) == 2
    assert "--steps is for runs that adapt" in capsys.readouterr().err
    assert main(["film", str(multitask / "nothing")]) == 2
    assert "no run in" in capsys.readouterr().err


def test_protocols_of_several_episodes_are_filmed_by_their_first() -> None:
    family = get_family("navigation2d")
    (task,) = family.sample(1, np.random.default_rng(3), "test")
    protocol = replace(PROTOCOL, episodes=4)
    seen: list[Tensor] = []

    def keep(number: int, transition: Transition) -> None:
        if number == 0:
            seen.append(transition.rewards[0, 0])

    adaptation_returns(Mover(), family, [task], protocol, chance(), watch=keep)
    before, _ = film_adaptation(Mover(), family, task, protocol, chance())
    assert before.total == pytest.approx(float(torch.stack(seen).sum()), rel=1e-5)
