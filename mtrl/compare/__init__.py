"""Does sharing help? Specialists, a shared trunk and nothing shared, at equal total budget."""
