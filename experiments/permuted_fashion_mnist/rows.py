"""Permuted Fashion-MNIST, ten tasks, by several methods."""

from experiments.run import Row

DATA = "tfds:fashion_mnist"
CONFIG = "configs/permuted_fashion_mnist.py"
PUBLISHED = {
    "ewc": "0.94 (MNIST, arXiv:1612.00796, figure 2B); 0.83 (MNIST, Avalanche's own run)",
}
METHODS = ("none", "joint", "ewc", "online_ewc", "si", "replay")
LAMBDAS = (10.0, 100.0, 1_000.0, 10_000.0)


def _row(name: str, method: str, flags: dict, seeds: int) -> Row:
    return Row(
        name,
        f"{CONFIG}:{method}",
        {"data.source": "{data}"} | flags,
        PUBLISHED.get(name, ""),
        seeds=seeds,
        command="vision.continual",
        continual=True,
    )


ROWS = (
    *(_row(method, method, {}, 3) for method in METHODS),
    *(
        _row(f"ewc, lambda {factor:g}", "ewc", {"objective.options.ewc": factor}, 1)
        for factor in LAMBDAS
    ),
)
