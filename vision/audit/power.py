"""How well embeddings tell the classes apart: whether they can question a label at all.

If 5 % of the labels are wrong, half of those that are called wrong are if `Power.kappa` is 0.75,
more above and a third or less from 0.7 down: docs/audit.md. Hence the default of
config.audit.power, 0.75, from which on `--apply` mends more labels than it spoils. It cannot ask
for much more, since wrong labels lower it, too: if a fifth of ten classes' labels is wrong,
faultless embeddings have no more than 0.78.
"""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from vision.audit.images import Images
from vision.reference.shares import wilson


@dataclasses.dataclass(frozen=True)
class Power:
    """How many labels the cross-validated predictions reproduce.

    Attributes:
        images: number of labels that were predicted.
        accuracy: share of them that was predicted as it is.
        low, high: the accuracy's interval of 95 % (Wilson 1927, doi:10.2307/2276774).
        chance: the accuracy of predictions that are as frequent for each class, but ignore the
            image.
        kappa: (low - chance) / (1 - chance), Cohen's kappa (1960, doi:10.1177/001316446002000104)
            at the lower end of the interval; 0 = chance, 1 = every label.
        limit: config.audit.power.
        suffices: whether the kappa is at least the limit.
    """

    images: int
    accuracy: float
    low: float
    high: float
    chance: float
    kappa: float
    limit: float
    suffices: bool


def measure(probabilities: np.ndarray, images: Images, c: ConfigDict) -> Power | None:
    """Returns the power of the embeddings that predictions follow from.

    Args:
        probabilities: result of `vision.audit.wrong_labels.predict`, (N, C).
        images: the images.
        c: config.audit.

    Returns:
        The power; None if no label was predicted.
    """
    rows = np.flatnonzero(np.isfinite(probabilities[:, 0]))
    if not len(rows):
        return None
    labels = images.labels[rows]
    predicted = probabilities[rows].argmax(1)
    classes = probabilities.shape[1]
    agreed = int((predicted == labels).sum())
    shares = [np.bincount(values, minlength=classes) / len(rows) for values in (labels, predicted)]
    chance = float(shares[0] @ shares[1])
    low, high = map(float, wilson(agreed, len(rows)))
    kappa = (low - chance) / (1 - chance) if chance < 1 else 0.0
    return Power(
        images=len(rows),
        accuracy=agreed / len(rows),
        low=low,
        high=high,
        chance=chance,
        kappa=kappa,
        limit=c.power,
        suffices=kappa >= c.power,
    )


def describe(power: Power | None, embeddings: str) -> str:
    """Returns a sentence about embeddings that do not suffice, and what to do.

    Args:
        power: of the embeddings; None if no label was predicted.
        embeddings: which they are: "pixels", "pretrained" or a run directory.
    """
    if power is None:
        return (
            "no two classes have an image for each fold: lower audit.folds, or add images to them"
        )
    better = "a trained run"
    if embeddings == "pixels":
        better = "pretrained or a trained run"
    return (
        f"a classifier of these embeddings ({embeddings}) predicts {power.accuracy:.0%} of "
        f"{power.images:,} labels ({power.low:.0%} to {power.high:.0%}; by chance "
        f"{power.chance:.0%}), a kappa of at least {power.kappa:.2f}, but {power.limit:g} is "
        f"needed to question any label or pair of classes: give better embeddings "
        f"(--embeddings: {better}), or lower audit.power"
    )
