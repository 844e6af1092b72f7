"""A tiny Gaussian policy in float64, and batches of samples for it."""

import torch
from tiny_regression import generator, meta_params, normal
from torch import Tensor

from mtrl.meta.inner import expand_to_tasks
from mtrl.meta.maml import MAML
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.objectives import PolicyBatch
from mtrl.meta.parameters import MetaParams
from mtrl.nets import GaussianPolicy, Params

TASKS, SAMPLES = 2, 7
POLICY = GaussianPolicy(2, 2, hidden=(3,), activation="tanh", initial_std=0.7)


def policy_params(seed: int = 0) -> Params:
    """Return shared parameters with a different deviation for each action."""
    params = {name: value.double() for name, value in POLICY.initial(generator(seed)).items()}
    return params | {"log_std": params["log_std"] + 0.1 * normal(2, seed=seed + 1)}


def policy_meta(learner: MAML | MetaSGD) -> MetaParams:
    return meta_params(learner, params=policy_params())


def samples(params: Params, seed: int) -> PolicyBatch:
    """Return samples of the policy with `params`, shared or per task; the last two are padding."""
    per_task = params if params["log_std"].ndim == 2 else expand_to_tasks(params, TASKS)
    observations = normal(TASKS, SAMPLES, 2, seed=seed)
    distribution = POLICY({n: v.detach() for n, v in per_task.items()}, observations)
    actions = distribution.sample(normal(TASKS, SAMPLES, 2, seed=seed + 1))
    mask = torch.ones(TASKS, SAMPLES, dtype=torch.float64)
    mask[1, -2:] = 0
    valid = mask / mask.sum(1, keepdim=True)
    advantages: Tensor = normal(TASKS, SAMPLES, seed=seed + 2)
    return PolicyBatch(
        observations=observations,
        actions=actions,
        weights=advantages * valid,
        valid=valid,
        log_probs=distribution.log_prob(actions),
    )
