"""Task families and their environments.

Importing this package registers `mtrl/Navigation2D-v0`, `mtrl/CartPole-v0` and the other families'
environments with Gymnasium.
"""

import gymnasium as gym

from mtrl.envs.registry import family_names, get_family
from mtrl.envs.task import Task

__all__ = ["Task", "family_names", "get_family"]

# Strings, so that the specification goes through JSON. The environment truncates by itself.
gym.register(
    id="mtrl/Navigation2D-v0",
    entry_point="mtrl.envs.navigation2d:make_navigation2d",
    vector_entry_point="mtrl.envs.navigation2d:make_navigation2d_vec",
)

for _name, _family in {
    "Acrobot": "acrobot",
    "Bandit": "bandit",
    "CartPole": "cartpole",
    "MountainCar": "mountaincar",
    "MountainCarContinuous": "mountaincar-continuous",
    "Pendulum": "pendulum",
    "TabularMDP": "tabular-mdp",
}.items():
    gym.register(
        id=f"mtrl/{_name}-v0",
        entry_point="mtrl.envs.registered:make_env",
        vector_entry_point="mtrl.envs.registered:make_vector_env",
        kwargs={"family": _family},
    )
