"""Tiny policies in float64, and batches of samples for them."""

import torch
from tiny_regression import generator, meta_params, normal
from torch import Tensor

from mtrl.meta.inner import expand_to_tasks
from mtrl.meta.maml import MetaLearner
from mtrl.meta.objectives import PolicyBatch
from mtrl.meta.parameters import MetaParams
from mtrl.nets import Params
from mtrl.policies import CategoricalPolicy, GaussianPolicy, Policy

TASKS, SAMPLES = 2, 7
POLICY = GaussianPolicy(2, 2, hidden=(3,), activation="tanh", initial_std=0.7)
CHOOSING = CategoricalPolicy(2, 3, hidden=(3,), activation="tanh")


def policy_params(seed: int = 0, policy: Policy = POLICY) -> Params:
    """Return shared parameters, with a different deviation for each action."""
    params = {name: value.double() for name, value in policy.initial(generator(seed)).items()}
    if "log_std" in params:
        params["log_std"] += 0.1 * normal(2, seed=seed + 1)
    return params


def policy_meta(learner: MetaLearner, policy: Policy = POLICY) -> MetaParams:
    return meta_params(learner, params=policy_params(policy=policy))


def samples(params: Params, seed: int, policy: Policy = POLICY) -> PolicyBatch:
    """Return samples of the policy with `params`, shared or per task; the last two are padding."""
    shared = params["layers.0.bias"].ndim == 1
    per_task = expand_to_tasks(params, TASKS) if shared else params
    observations = normal(TASKS, SAMPLES, 2, seed=seed)
    distribution = policy({n: v.detach() for n, v in per_task.items()}, observations)
    noise = policy.noise((TASKS, SAMPLES), generator(seed + 1))
    actions = distribution.sample(noise.double())
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
