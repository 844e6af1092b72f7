"""Checkpoints of every agent based on Stable-Baselines3, without pickle, from which it goes on exactly."""

from mtrl.agents.saving.agent import agent_state, load_agent_state
from mtrl.agents.saving.files import load_agent, save_agent

__all__ = ["agent_state", "load_agent", "load_agent_state", "save_agent"]
