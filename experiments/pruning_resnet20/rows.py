"""A trained ResNet-20 with fewer channels, by Li et al. 2016 and by the loss's change."""

from experiments.run import Row

DATA = "tfds:cifar10"
TRAINED = "{run:he2015_resnet:ResNet-20, 16,000 steps, cosine}"
TUNING = {
    "optimizer.learning_rate": 0.01,
    "schedule.name": "cosine",
    "train.steps": 4000,
}
# Li et al. cut the first convolution of each block, and of each the same share.
METHODS = {
    "Li et al.": r"--importance=l1 --only=layers\\.0",
    "Taylor, all channels": "--importance=taylor",
}
PAPER = {0.276: "+0.02 points (ResNet-56: 93.04 to 93.06, arXiv:1608.08710, table 1)"}


def _row(method: str, ratio: float) -> Row:
    flags = f"{METHODS[method]} --target=flops --ratio={ratio} --norounded"
    name = f"{method}, FLOPs -{100 * ratio:g} %"
    published = PAPER.get(ratio, "") if method == "Li et al." else ""
    return Row(name, TRAINED, TUNING, published, prune=flags)


ROWS = (
    Row(
        "not pruned, trained as much further",
        "configs/resnet_cifar10.py:20",
        TUNING | {"data.source": "{data}", "model.pretrained": TRAINED},
    ),
    *(_row(method, ratio) for ratio in (0.276, 0.5) for method in METHODS),
)
