"""Permuted Fashion-MNIST, ten tasks, by several methods."""

from experiments.run import Row

DATA = "tfds:fashion_mnist"
CONFIG = "configs/permuted_fashion_mnist.py"
PUBLISHED = {
    "ewc": "0.94 (MNIST, arXiv:1612.00796, figure 2B); 0.83 (MNIST, Avalanche's own run)",
}
METHODS = ("none", "joint", "ewc", "online_ewc", "si", "replay")
# The factors of the config are chosen by these options and values, on a seed that no other row has,
# by --large only.
FACTORS = {
    "ewc": ("ewc", (10.0, 1e2, 1e3, 1e4, 1e5, 1e6)),
    "online_ewc": ("ewc", (1.0, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6)),
    "si": ("si", (0.1, 1.0, 10.0, 100.0)),
}
SEARCH_SEED = 20

ROWS = tuple(
    Row(
        method,
        f"{CONFIG}:{method}",
        {"data.source": "{data}"},
        PUBLISHED.get(method, ""),
        seeds=3,
        command="vision.continual",
        continual=True,
    )
    for method in METHODS
)
ROWS += tuple(
    Row(
        f"{method}, factor {factor:g}",
        f"{CONFIG}:{method}",
        {"data.source": "{data}", f"objective.options.{option}": factor, "seed": SEARCH_SEED},
        seeds=1,
        large=True,
        command="vision.continual",
        continual=True,
    )
    for method, (option, factors) in FACTORS.items()
    for factor in factors
)
