"""Policies for Bernoulli bandits that know the distribution of the tasks: what RL² is measured by."""
