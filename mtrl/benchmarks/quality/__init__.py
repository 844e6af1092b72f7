"""How well learners adapt: learners by families by seeds, every score on the same unseen tasks."""
