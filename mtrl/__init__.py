"""Multi-task and meta reinforcement learning on Gymnasium, Stable-Baselines3 and PyTorch."""

__version__ = "0.1.0"

__all__ = ["__version__"]
