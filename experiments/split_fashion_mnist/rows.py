"""Split Fashion-MNIST in three scenarios, by eight methods."""

from experiments.run import Row

DATA = "tfds:fashion_mnist"
CONFIG = "configs/split_fashion_mnist.py"
# Split MNIST, 20 seeds: van de Ven and Tolias 2019 (arXiv:1904.07734), table 4; their replay is of
# generated images (DGR), and they have no LwF with a memory.
PUBLISHED = {
    ("task", "none"): "87.19",
    ("domain", "none"): "59.21",
    ("class", "none"): "19.90",
    ("task", "joint"): "99.66",
    ("domain", "joint"): "98.42",
    ("class", "joint"): "97.94",
    ("task", "ewc"): "98.64",
    ("domain", "ewc"): "63.95",
    ("class", "ewc"): "20.01",
    ("task", "online_ewc"): "99.12",
    ("domain", "online_ewc"): "64.32",
    ("class", "online_ewc"): "19.96",
    ("task", "si"): "99.09",
    ("domain", "si"): "65.36",
    ("class", "si"): "19.99",
    ("task", "lwf"): "99.57",
    ("domain", "lwf"): "71.50",
    ("class", "lwf"): "23.85",
    ("task", "replay"): "99.50 (DGR)",
    ("domain", "replay"): "95.72 (DGR)",
    ("class", "replay"): "90.79 (DGR)",
}
METHODS = ("none", "joint", "ewc", "online_ewc", "si", "lwf", "replay", "lwf_replay")
# The factors of the config are chosen by these options and values, on a seed that no other row has,
# by --large only. With one answer for all classes no method keeps anything, so none is searched
# there.
FACTORS = {
    "ewc": ("ewc", (1e2, 1e3, 1e4, 1e5, 1e6, 1e7)),
    "online_ewc": ("ewc", (1e2, 1e3, 1e4, 1e5, 1e6, 1e7)),
    "si": ("si", (0.1, 1.0, 10.0, 100.0, 1000.0)),
}
SEARCH_SEED = 20

ROWS = tuple(
    Row(
        f"{scenario}, {method}",
        f"{CONFIG}:{scenario}:{method}",
        {"data.source": "{data}"},
        PUBLISHED.get((scenario, method), ""),
        seeds=20,
        command="vision.continual",
        continual=True,
    )
    for scenario in ("task", "domain", "class")
    for method in METHODS
)
ROWS += tuple(
    Row(
        f"{scenario}, {method}, factor {factor:g}",
        f"{CONFIG}:{scenario}:{method}",
        {"data.source": "{data}", f"objective.options.{option}": factor, "seed": SEARCH_SEED},
        seeds=1,
        large=True,
        command="vision.continual",
        continual=True,
    )
    for scenario in ("task", "domain")
    for method, (option, factors) in FACTORS.items()
    for factor in factors
)
