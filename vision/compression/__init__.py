"""Makes models smaller and faster at little or no loss of accuracy."""
