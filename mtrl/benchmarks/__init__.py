"""Benchmarks of adaptation: how well learners adapt, and how fast."""
