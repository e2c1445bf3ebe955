"""What a source's name asks for beyond the source, to study what it does: a long tail, wrong
labels.

    mnist5k?imbalance=50                a long-tailed training split: the first class has 50 times
                                        the last one's images
    mnist5k?flip_labels=0.05            5 % of the labels of train and val are wrong
    tfds:cifar10?imbalance=100&seed=1   the draw of another seed; by default it is 0 whatever the
                                        config's seed

The test split stays as it is, so that what the change does can be measured.
"""

import numpy as np

from vision.data.sources import parse
from vision.data.splits import Subset
from vision.errors import UserError


class Relabeled:
    """A source with other labels.

    Args:
        source: any source.
        labels: (N,) integers, indices into its classes.
    """

    def __init__(self, source, labels):
        self.source = source
        self.labels = np.asarray(labels, np.int32)
        self.classes = source.classes
        self.encoded = source.encoded
        self.findings = source.findings
        self.name = source.name
        self.file = source.file
        self.fields = getattr(source, "fields", {})

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return {"image": self.source[index]["image"], "label": int(self.labels[index])}


def change(splits, spec):
    """Applies `CHANGES` that a source's name asks for.

    Args:
        splits: {"train": source, "val": source, "test": source}.
        spec: the source's name.

    Raises:
        UserError: a value out of its range.
    """
    _, _, options = parse(spec)
    seed = _number(spec, options, "seed", int, lambda v: v >= 0, "a whole number of at least 0", 0)
    ratio = _number(
        spec, options, "imbalance", float, lambda v: 1 <= v < np.inf, "at least 1", None
    )
    share = _number(spec, options, "flip_labels", float, lambda v: 0 <= v <= 1, "in [0, 1]", None)
    splits = dict(splits)
    if ratio is not None:
        splits["train"] = Subset(splits["train"], long_tail(splits["train"].labels, ratio, seed))
    if share is not None:
        for i, name in enumerate(("train", "val")):
            source = splits[name]
            splits[name] = Relabeled(
                source, flip(source.labels, len(source.classes), share, [seed, i])
            )
    return splits


def long_tail(labels, ratio, seed=0):
    """Draws a long-tailed part: of class c at most n ratio^(-c / (C - 1)) images, the profile "exp"
    of Cui et al. 2019 (arXiv:1901.05555, section 5.1), where n is the largest class's count and C
    the number of classes.

    Args:
        labels: (N,) integers.
        ratio: of the first class's images to the last one's, at least 1.
        seed: of the draw within each class.

    Returns:
        Sorted int64 positions.
    """
    counts = np.bincount(labels)
    last = max(len(counts) - 1, 1)
    kept = []
    for label, count in enumerate(counts):
        # Cut as in the authors' code; the small number is for 5000 x 100^(-1) to be 50, not 49.
        most = max(1, int(counts.max() * ratio ** (-label / last) + 1e-9))
        # RandomState's streams are frozen for all versions of numpy; Generator's are not.
        shuffled = np.random.RandomState([seed % 2**32, label]).permutation(
            np.flatnonzero(labels == label)
        )
        kept.append(shuffled[: min(most, count)])
    return np.sort(np.concatenate(kept))


def flip(labels, classes, share, seed):
    """Returns labels of which a share, drawn at random, is replaced by another class, any with the
    same probability.

    Args:
        labels: (N,) integers.
        classes: how many there are.
        share: in [0, 1].
        seed: integers of the draw.
    """
    random = np.random.RandomState([part % 2**32 for part in seed])
    wrong = random.permutation(len(labels))[: round(share * len(labels))]
    flipped = np.array(labels)
    flipped[wrong] = (flipped[wrong] + random.randint(1, classes, len(wrong))) % classes
    return flipped


def _number(spec, options, name, kind, inside, rule, default):
    if name not in options:
        return default
    try:
        value = kind(options[name])
        if inside(value):
            return value
    except ValueError:
        pass
    raise UserError(f"'{spec}': {name} is {rule}, not {options[name]!r}")
