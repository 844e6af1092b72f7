"""Task families and their environments.

Importing this package registers `mtrl/Navigation2D-v0`, `mtrl/CartPole-v0` and the other families'
environments with Gymnasium.
"""

import gymnasium as gym

from mtrl.envs.registry import family_names, get_family
from mtrl.envs.task import Task

__all__ = ["Task", "family_names", "get_family"]

for _name, _family in {
    "Acrobot": "acrobot",
    "AntDirection": "ant-direction",
    "AntGoal": "ant-goal",
    "AntVelocity": "ant-velocity",
    "Bandit": "bandit",
    "CartPole": "cartpole",
    "HalfCheetahDirection": "halfcheetah-direction",
    "HalfCheetahVelocity": "halfcheetah-velocity",
    "Hexagon": "hexagon",
    "HopperParameters": "hopper-parameters",
    "HumanoidDirection": "humanoid-direction",
    "MountainCar": "mountaincar",
    "MountainCarContinuous": "mountaincar-continuous",
    "Navigation2D": "navigation2d",
    "Pendulum": "pendulum",
    "TabularMDP": "tabular-mdp",
    "Walker2dParameters": "walker2d-parameters",
}.items():
    # Strings, so that the specification goes through JSON. The environment truncates by itself.
    gym.register(
        id=f"mtrl/{_name}-v0",
        entry_point="mtrl.envs.registered:make_env",
        vector_entry_point="mtrl.envs.registered:make_vector_env",
        kwargs={"family": _family},
    )
