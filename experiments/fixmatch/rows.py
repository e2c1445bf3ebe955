"""Few labels of Fashion-MNIST and CIFAR-10, with and without the other images."""

from experiments.run import Row

DATA = "tfds:fashion_mnist"
FASHION = "configs/fixmatch_fashion_mnist.py"
PUBLISHED = {  # 100 - error on CIFAR-10: Wang et al. 2022 (arXiv:2208.07204), WRN-28-2, 2^20 steps
    (40, "supervised"): "22.42",
    (40, "fixmatch"): "91.67",
    (250, "supervised"): "44.04",
    (250, "fixmatch"): "95.03",
    (4000, "supervised"): "84.49",
    (4000, "fixmatch"): "95.71",
}


def _row(labels: int, method: str, seed: str = "{seed}") -> Row:
    flags = {"data.source": "{data}", "data.labels_seed": seed}
    published = PUBLISHED.get((labels, method), "")
    if published:
        published += " (CIFAR-10, WRN-28-2, 2^20 steps, arXiv:2208.07204)"
    return Row(f"{labels} labels, {method}", f"{FASHION}:{labels}:{method}", flags, published)


ROWS = tuple(
    _row(labels, method) for labels in (40, 250, 4000) for method in ("supervised", "fixmatch")
) + tuple(_row(250, method) for method in ("flex", "free", "mean_teacher", "pi", "pseudo_label"))

# As JPEG q75, if TFDS' copy is made from such files: say so beside the figure.
CIFAR10 = {
    "data.labels_seed": "{seed}",
    "model.name": "resnet",
    "model.variant": "cifar20",
    "train.steps": 6000,
    "train.batch_size": 16,
    "train.eval_every": 1500,
    "optimizer.ema": 0.99,
}
ROWS += tuple(
    Row(
        f"CIFAR-10, ResNet-20, 6,000 steps: 250 labels, {method}",
        f"configs/fixmatch_cifar10.py:250:{method}",
        CIFAR10,
        PUBLISHED[250, method] + " (WRN-28-2, 2^20 steps, arXiv:2208.07204)",
        seeds=1,
    )
    for method in ("supervised", "fixmatch")
)
