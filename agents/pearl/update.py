"""The gradient step of PEARL (Rakelly et al. 2019, algorithm 1, lines 11-17).

SAC's three losses on each task's transitions, given a latent drawn from the belief that the task's context gives. The
encoder learns from the critics' loss and from the divergence of its beliefs from the prior; the actor's loss does not
reach it.
"""

from collections.abc import Iterable, Mapping
from itertools import chain

import torch
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn

from mtrl.agents.pearl.policy import LatentPolicy
from mtrl.agents.pearl.replay import Transitions
from mtrl.agents.pearl.settings import PEARL

__all__ = ["PearlUpdate"]


class PearlUpdate:
    """Trains a `LatentPolicy`, in place.

    Args:
        policy: the networks.
        settings: see `PEARL`.
    """

    def __init__(self, policy: LatentPolicy, settings: PEARL) -> None:
        self.policy = policy
        self._settings = settings
        device = next(policy.parameters()).device
        start = settings.temperature or 1.0
        self.log_temperature = torch.tensor(start, device=device).log()
        self._critics = dict(
            chain(
                _named("critic", policy.critic),
                _named("encoder", policy.encoder),
            )
        )
        self._actor = dict(_named("actor", policy.actor))
        self._temperature = {"temperature": self.log_temperature.requires_grad_()}
        groups = (self._critics, self._actor, self._temperature)
        self._optimizers = [_adam(group.values(), settings.learning_rate) for group in groups]

    @property
    def temperature(self) -> Tensor:
        """Return the weight of the entropy, without a graph."""
        return self.log_temperature.detach().exp()

    def step(
        self, context: Transitions, batch: Transitions, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Take a step on the tasks of `context` and `batch`; return losses before it by tag.

        Args:
            context: (tasks, n, ...), what the beliefs come from.
            batch: (tasks, m, ...), other transitions of the same tasks.
            generator: of the latents and actions, on the device of all this.
        """
        tasks, rows = batch.rewards.shape[:2]
        belief = self.policy.encoder(context)
        latents = belief.sample(_normal(belief.mean.shape, generator))
        latents = latents.unsqueeze(1).expand(tasks, rows, -1).flatten(0, 1)
        flat = Transitions(*(part.flatten(0, 1) for part in batch))
        seen = {"context/divergence": belief.divergence().mean()}
        seen["context/deviation"] = belief.variance.sqrt().mean()

        noise = _normal(flat.actions.shape, generator)
        actions, log_probs = self.policy.act(flat.observations, latents, noise)
        temperature = self.temperature
        seen["train/ent_coef"] = temperature
        if self._settings.temperature is None:
            excess = log_probs.detach().mean() - self.policy.sizes[1]
            self._descend(2, self._temperature, -self.log_temperature * excess)

        targets = self._targets(flat, latents, temperature, generator)
        critic_loss = self.critic_loss(flat, latents, targets)
        loss = critic_loss + self._settings.kl_weight * seen["context/divergence"]
        self._descend(0, self._critics, loss)

        actor_loss = self.actor_loss(flat, latents, (actions, log_probs))
        self._descend(1, self._actor, actor_loss)
        self._follow()
        seen |= {"train/critic_loss": critic_loss, "train/actor_loss": actor_loss}
        return {tag: value.detach() for tag, value in seen.items()}

    def critic_loss(self, batch: Transitions, latents: Tensor, targets: Tensor) -> Tensor:
        """Return the critics' loss, a function of their parameters and of the latents (batch, latent)."""
        seen = torch.cat([batch.observations, latents], -1)
        values = self.policy.critic(seen, batch.actions)
        return torch.stack([0.5 * (value - targets).square().mean() for value in values]).sum()

    def actor_loss(
        self, batch: Transitions, latents: Tensor, acted: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return the actor's loss of the actions and log densities that it `acted`."""
        actions, log_probs = acted
        seen = torch.cat([batch.observations, latents.detach()], -1)
        values = torch.cat(self.policy.critic(seen, actions), 1).amin(1)
        return (self.temperature * log_probs - values).mean()

    @torch.no_grad()
    def _targets(
        self, batch: Transitions, latents: Tensor, temperature: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return what the critics should say of the batch's actions, (batch, 1)."""
        noise = _normal(batch.actions.shape, generator)
        actions, log_probs = self.policy.act(batch.next_observations, latents, noise)
        seen = torch.cat([batch.next_observations, latents], -1)
        values = torch.cat(self.policy.critic_target(seen, actions), 1).amin(1, keepdim=True)
        soft = values - temperature * log_probs.unsqueeze(1)
        # An episode that only ran out of time goes on as far as values are concerned.
        discount = self._settings.discount * (1 - batch.terminated)
        return self._settings.reward_scale * batch.rewards + discount * soft

    def _descend(self, which: int, parameters: Mapping[str, Tensor], loss: Tensor) -> None:
        # By these parameters alone: the others of the graph get no gradient, and none is left behind.
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        self._optimizers[which].step()

    def _follow(self) -> None:
        critic, target = self.policy.critic, self.policy.critic_target
        polyak_update(critic.parameters(), target.parameters(), self._settings.target_rate)

    # Checkpoints

    def tensors(self) -> dict[str, Tensor]:
        """Return what a resumed run needs beside `LatentPolicy.learned`."""
        kept = {f"target/{name}": value for name, value in self._targets_by_name().items()}
        kept["temperature"] = self.log_temperature.detach()
        for name, parameter, optimizer in self._optimized():
            for field, entry in optimizer.state[parameter].items():
                kept[f"adam/{field}/{name}"] = entry
        return kept

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue with what `tensors` returned."""
        for name, value in self._targets_by_name().items():
            value.copy_(tensors[f"target/{name}"])
        self.log_temperature.copy_(tensors["temperature"])
        for name, parameter, optimizer in self._optimized():
            for field in ("step", "exp_avg", "exp_avg_sq"):
                entry = tensors.get(f"adam/{field}/{name}")
                if entry is not None:
                    optimizer.state[parameter][field] = entry.to(parameter.device, copy=True)

    def _targets_by_name(self) -> dict[str, Tensor]:
        return {name: each.detach() for name, each in self.policy.critic_target.named_parameters()}

    def _optimized(self) -> Iterable[tuple[str, Tensor, torch.optim.Optimizer]]:
        groups = (self._critics, self._actor, self._temperature)
        for group, optimizer in zip(groups, self._optimizers, strict=True):
            for name, parameter in group.items():
                yield name, parameter, optimizer


def _named(prefix: str, module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((f"{prefix}.{name}", parameter) for name, parameter in module.named_parameters())


def _adam(parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    # Fused: a dozen small tensors cost one kernel instead of one per tensor and operation.
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def _normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
