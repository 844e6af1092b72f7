"""Meta-training of PEARL, whose agent is `mtrl.agents.pearl`."""
