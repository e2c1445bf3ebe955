"""Smaller and faster models that are as good."""
