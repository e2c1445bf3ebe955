"""Watches what a server answers: reads its prediction log. Nothing here imports JAX."""
