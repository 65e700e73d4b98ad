"""Real models, real text, real training (extra `torch`): import its modules, not this package."""
