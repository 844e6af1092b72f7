"""`mtrl reproduce incremental`: every method on one sequence of tasks from two families."""
