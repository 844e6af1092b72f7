"""Many tasks under Stable-Baselines3: environments, statistics, buffers and algorithms."""
