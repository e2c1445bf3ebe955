"""Synthetic training images from a run of the objective `gan`, and a report on them."""
