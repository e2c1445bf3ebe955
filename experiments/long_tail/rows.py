"""CIFAR-10-LT, ratio 100: four methods shortened, and all as their papers train them."""

from configs.longtail_cifar10 import METHODS
from experiments.run import Row

DATA = "tfds:cifar10"
CONFIG = "configs/longtail_cifar10.py"
SOURCE = {"data.source": "{data}?imbalance=100"}
SHORT = SOURCE | {"train.epochs": 40.0}
PAPER = {
    "plain": "70.4 (arXiv:1906.07413)",
    "effective_number": "72.4 (arXiv:1901.05555, as in 1906.07413)",
    "focal": "70.4 (arXiv:1708.02002, as in 1906.07413)",
    "oversampling": "70.6 (by effective number, not evenly, arXiv:1906.07413; not checked)",
    "logit_adjustment": "77.9 (README of the authors' code, where plain has 71.4)",
    "ldam_drw": "77.0 (arXiv:1906.07413)",
}


def _row(method: str, epochs: int) -> Row:
    flags = SHORT if epochs == 40 else SOURCE
    published = PAPER.get(method, "")
    if published and epochs != 200:
        published = published.replace("(", "(200 epochs; ")
    name = f"{method}, {epochs} epochs"
    return Row(name, f"{CONFIG}:{method}", flags, published, balanced=True, large=epochs == 200)


ROWS = (
    *(_row(method, 40) for method in ("plain", "oversampling", "logit_adjustment", "ldam_drw")),
    *(_row(method, 200) for method in METHODS),
)
