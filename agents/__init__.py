"""Agents that act in task families and adapt to tasks they have not seen."""
