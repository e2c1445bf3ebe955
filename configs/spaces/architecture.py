"""Mobile networks: one number of each letter of config.model.variant, which names a space.

A config with such a variant is configs/architecture_fashion_mnist.py:space.
"""

from vision.search.architecture.study import suggest


def space(trial, config):
    config.model.variant = suggest(trial, config.model.variant)
