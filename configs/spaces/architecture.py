"""Mobile networks: one number of each letter of config.model.variant, which names a space.

A config with such a variant is configs/architecture_fashion_mnist.py:space. With a budget, as in
--space configs/spaces/architecture.py:2e6, networks with more multiply-adds for an image are pruned
before they are trained.
"""

from vision.search.architecture.study import check_budget, suggest


def space(trial, config, budget=""):
    variant = suggest(trial, config.model.variant)
    if budget:
        check_budget(config, variant, budget)
    config.model.variant = variant
