"""A run directory: its config, its data, its checkpoints and its weights."""
