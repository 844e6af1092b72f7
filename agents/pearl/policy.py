"""The networks of PEARL: an encoder of transitions, and SAC's actor and critics that see what it believes."""

import math
from collections.abc import Mapping

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn
from torch.nn.functional import softplus

from mtrl.agents.pearl.belief import Belief, product_of_gaussians
from mtrl.agents.pearl.replay import Transitions
from mtrl.agents.pearl.settings import PEARL

__all__ = ["ContextEncoder", "LatentPolicy", "squashed"]

LEAST_VARIANCE = 1e-7
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class ContextEncoder(nn.Module):
    """Turns each transition into a Gaussian factor of what is believed about its task.

    Args:
        inputs: numbers of a transition that it sees.
        hidden: units of the hidden layers.
        latent: numbers that stand for a task.
        next_observations: whether it sees where a transition led.
    """

    def __init__(
        self, inputs: int, hidden: tuple[int, ...], latent: int, *, next_observations: bool
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(*create_mlp(inputs, 2 * latent, list(hidden)))
        self._next_observations = next_observations

    def factors(self, context: Transitions) -> Belief:
        """Return the factor of each transition, (tasks, transitions, latent)."""
        seen = [context.observations, context.actions, context.rewards]
        if self._next_observations:
            seen.append(context.next_observations)
        mean, spread = self.layers(torch.cat(seen, -1)).chunk(2, -1)
        return Belief(mean, softplus(spread).clamp(min=LEAST_VARIANCE))

    def forward(self, context: Transitions, happened: Tensor | None = None) -> Belief:
        """Return the belief about each task, (tasks, latent), from those transitions that `happened`."""
        return product_of_gaussians(self.factors(context), happened)


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return tanh of a Gaussian's sample, and its log density, without the last axis (SAC, appendix C)."""
    sample = mean + log_std.exp() * noise
    gaussian = (-0.5 * noise.square() - log_std - _LOG_SQRT_2PI).sum(-1)
    # log(1 - tanh(x)^2), without the loss of digits of the difference.
    slope = 2 * (math.log(2) - sample - softplus(-2 * sample))
    return sample.tanh(), gaussian - slope.sum(-1)


class LatentPolicy(SACPolicy):
    """Stable-Baselines3's actor and critics on observations that end in the task's latent, and the encoder.

    Actions are in [-1, 1], see `mtrl.envs.actions`.

    Args:
        observation: numbers of an observation.
        action: numbers of an action.
        settings: see `PEARL`.
        generator: draws the parameters, on the CPU; torch's global stream is left as it is.
        device: where the networks are.
    """

    def __init__(
        self,
        observation: int,
        action: int,
        settings: PEARL,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        seen = gym.spaces.Box(-np.inf, np.inf, (observation + settings.latent,))
        with torch.random.fork_rng(devices=()):
            super().__init__(
                seen,
                gym.spaces.Box(-1.0, 1.0, (action,)),
                lambda _: settings.learning_rate,
                net_arch=list(settings.hidden),
            )
            parts = (2 if settings.next_observations else 1) * observation + action + 1
            self.encoder = ContextEncoder(
                parts,
                settings.encoder_hidden,
                settings.latent,
                next_observations=settings.next_observations,
            )
        self.sizes = (observation, action)
        self.latent = settings.latent
        self._draw_parameters(generator)
        self.to(device)

    def _draw_parameters(self, generator: torch.Generator) -> None:
        """Draw what torch's linear layers start from, but from a stream that is the run's own."""
        for part in (self.encoder, self.actor, self.critic):
            for layer in part.modules():
                if isinstance(layer, nn.Linear):
                    bound = 1 / math.sqrt(layer.in_features)
                    for parameter in layer.parameters():
                        nn.init.uniform_(parameter, -bound, bound, generator=generator)
        self.critic_target.load_state_dict(self.critic.state_dict())

    def act(
        self, observations: Tensor, latents: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return actions (batch, actions) and their log densities (batch,); the mode without `noise`.

        The actor takes latents as they are: no gradient of it reaches the encoder.
        """
        seen = torch.cat([observations, latents.detach()], -1)
        mean, log_std, _ = self.actor.get_action_dist_params(seen)
        return squashed(mean, log_std, torch.zeros_like(mean) if noise is None else noise)

    def learned(self) -> dict[str, Tensor]:
        """Return all parameters but the targets', by name, sharing memory with them."""
        return {
            name: parameter.detach()
            for name, parameter in self.named_parameters()
            if not name.startswith("critic_target.")
        }

    @torch.no_grad()
    def take_over(self, learned: Mapping[str, Tensor]) -> None:
        """Take over parameters that `learned` returned."""
        for name, value in self.learned().items():
            value.copy_(learned[name])
