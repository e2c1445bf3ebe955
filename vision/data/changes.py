"""Changes that a source's name asks for, to study their effects: a long tail, wrong labels.

    mnist5k?imbalance=50                a long-tailed training split: the first class has 50 times
                                        the last one's images
    mnist5k?flip_labels=0.05            5 % of the labels of train and val are wrong
    tfds:cifar10?imbalance=100&seed=1   a draw with another seed; the default is 0 whatever the
                                        config's seed

The test split is unchanged, so that the effect can be measured.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vision.data.sources import Source, members, parse
from vision.data.subset import Subset
from vision.errors import UserError


class Relabeled:
    """A source with other labels.

    Args:
        source: any source.
        labels: (N,) integers, indices into its classes.
    """

    def __init__(self, source: Source, labels: np.ndarray):
        self.source = source
        self.labels = np.asarray(labels, np.int32)
        self.classes = source.classes
        self.encoded = source.encoded
        self.findings = source.findings
        self.bits = getattr(source, "bits", 0)
        self.name = source.name
        self.file = source.file
        self.fields = getattr(source, "fields", {})
        self.texts = getattr(source, "texts", None)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.source[index]["image"], "label": int(self.labels[index])}


def change(splits: Mapping[str, Source], spec: str) -> dict[str, Source]:
    """Applies those of `CHANGES` that a source's name asks for.

    Args:
        splits: {"train": source, "val": source, "test": source}.
        spec: the source's name.

    Raises:
        UserError: a value out of its range.
    """
    if len(members(spec)) > 1:
        return dict(splits)
    _, _, options = parse(spec)
    seed = _number(spec, options, "seed", int, lambda v: v >= 0, "an integer of at least 0")
    ratio = _number(spec, options, "imbalance", float, lambda v: 1 <= v < np.inf, "at least 1")
    share = _number(spec, options, "flip_labels", float, lambda v: 0 <= v <= 1, "in [0, 1]")
    seed = seed or 0
    splits = dict(splits)
    if ratio is not None:
        splits["train"] = Subset(splits["train"], long_tail(splits["train"].labels, ratio, seed))
    if share is not None:
        for i, name in enumerate(("train", "val")):
            source = splits[name]
            labels = flip(source.labels, len(source.classes), share, [seed, i])
            splits[name] = Relabeled(source, labels)
    return splits


def long_tail(labels: np.ndarray, ratio: float, seed: int = 0) -> np.ndarray:
    """Draws a long-tailed subset: at most n ratio^(-c / (C - 1)) images of class c.

    This is the profile "exp" of Cui et al. 2019 (arXiv:1901.05555, section 5.1), where n is the
    largest class's count and C the number of classes.

    Args:
        labels: (N,) integers.
        ratio: ratio of the first class's images to the last one's, at least 1.
        seed: seed of the draw within each class.

    Returns:
        Sorted int64 positions.
    """
    counts = np.bincount(labels)
    last = max(len(counts) - 1, 1)
    kept = []
    for label, count in enumerate(counts):
        # Truncated as in the authors' code; the small number makes 5000 x 100^(-1) 50, not 49.
        limit = max(1, int(counts.max() * ratio ** (-label / last) + 1e-9))
        # RandomState's streams are frozen for all versions of numpy; Generator's are not.
        random = np.random.RandomState([seed % 2**32, label])
        shuffled = random.permutation(np.flatnonzero(labels == label))
        kept.append(shuffled[: min(limit, count)])
    return np.sort(np.concatenate(kept))


def flip(labels: np.ndarray, classes: int, share: float, seed: Sequence[int]) -> np.ndarray:
    """Returns labels of which a random share is replaced by another class, all equally likely.

    Args:
        labels: (N,) integers.
        classes: number of classes.
        share: in [0, 1].
        seed: integers that seed the draw.
    """
    random = np.random.RandomState([part % 2**32 for part in seed])
    wrong = random.permutation(len(labels))[: round(share * len(labels))]
    flipped = np.array(labels)
    flipped[wrong] = (flipped[wrong] + random.randint(1, classes, len(wrong))) % classes
    return flipped


def _number(spec, options, name, kind, inside, rule):
    """Returns the value of an option; None if it is not set."""
    if name not in options:
        return None
    try:
        value = kind(options[name])
        if inside(value):
            return value
    except ValueError:
        pass
    raise UserError(f"'{spec}': {name} must be {rule}, got {options[name]!r}")
