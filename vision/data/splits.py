"""Exactly three splits from whatever a source has: stratified, disjoint, complete, and the same on
every machine."""

import numpy as np

from vision.errors import UserError


class Subset:
    """A source that is a part of another.

    Args:
        source: any source.
        indices: (N,) integers, positions in `source`.
    """

    def __init__(self, source, indices):
        self.source = source
        self.indices = np.asarray(indices, np.int64)
        self.labels = source.labels[self.indices]
        self.classes = source.classes
        self.encoded = source.encoded
        self.findings = source.findings
        fields = getattr(source, "fields", {})
        self.fields = {name: values[self.indices] for name, values in fields.items()}

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.source[int(self.indices[index])]

    def name(self, index):
        return self.source.name(int(self.indices[index]))

    def file(self, index):
        return self.source.file(int(self.indices[index]))


def same_images(a, b):
    """Whether two sources hold the same images, as where test stands in for val, whatever their
    labels."""
    return a is b or (len(a) == len(b) and all(a.name(i) == b.name(i) for i in range(len(a))))


def make_splits(splits, fractions=(0.7, 0.2, 0.1), val_fraction=0.1, seed=0):
    """Returns {"train": source, "val": source, "test": source}.

    A source without splits of its own ("all", or only "train") is divided by `fractions`. A
    source's own splits are kept, and a missing val is carved from train by `val_fraction`. Where a
    source has train and val only, as ImageNet, its val is what others report on: it becomes test,
    and a val is carved from train. So no image is ever in two splits, but for a `val_fraction` of
    0: then all of train is learned from, as papers do that report on the test split alone, and test
    stands in for val, so that nothing may be chosen by it. A class that only the test split has is
    kept: the audit reports it.

    Args:
        splits: what `open_splits` returns.
        fractions: shares of train, val and test, each above 0, with the sum 1.
        val_fraction: share of train that becomes val, at least 0 and below 1.
        seed: of the random choice, within each class. The same seed gives the same splits on every
            machine.

    Raises:
        UserError: fractions out of range, no images to train on, too few images for a split, or
            fewer than two classes.
    """
    fractions = tuple(fractions)
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"data.fractions must be three shares above 0 with the sum 1 (train, val, test), not {fractions}"
        )
    if not 0 <= val_fraction < 1:
        raise UserError(f"data.val_fraction must be at least 0 and below 1, not {val_fraction}")
    whole = splits.get("all", splits.get("train"))
    if whole is None:
        raise UserError(
            f"the data have no train split, only {', '.join(splits) or 'none'}: nothing to learn from"
        )
    _check_labels(splits)
    if "val" in splits and "test" not in splits:
        splits = {"train": whole, "test": splits["val"]}
    if "test" in splits and "val" not in splits and not val_fraction:
        splits = splits | {"val": splits["test"]}
    if "test" in splits:
        val = 0.0 if "val" in splits else val_fraction
        fractions = (1 - val, val, 0.0)
    parts = dict(
        zip(("train", "val", "test"), stratify(whole.labels, fractions, seed), strict=True)
    )
    result = {}
    for name, indices in parts.items():
        result[name] = (
            splits[name] if name in splits and name != "train" else Subset(whole, indices)
        )
        if not len(result[name]):
            raise UserError(
                f"no image is left for {name}: {len(whole)} are too few; add some or change data.fractions"
            )
    return result


def stratify(labels, fractions, seed):
    """Divides positions at random, class by class.

    Each class's count in each split is within 1 of its share, and each split's total within 1 of
    its own, but for tiny classes: one with an image for every split has at least one in each, and
    any other has at least one in the first.

    Args:
        labels: (N,) integers >= 0.
        fractions: the splits' shares; the sum is 1. A share of 0 gets nothing.
        seed: an integer.

    Returns:
        A sorted (n,) int64 array of positions for each fraction. Together they are 0 to N - 1, each
        once.
    """
    parts = [[] for _ in fractions]
    carry = np.zeros(len(fractions))
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    for label, positions in zip(classes, np.split(order, starts[1:]), strict=True):
        counts, carry = _divide(len(positions), np.asarray(fractions, np.float64), carry)
        # RandomState's streams are frozen for all versions of numpy; Generator's are not.
        shuffled = np.random.RandomState([seed % 2**32, int(label)]).permutation(positions)
        for part, piece in zip(parts, np.split(shuffled, np.cumsum(counts)[:-1]), strict=True):
            part.append(piece)
    return [
        np.sort(np.concatenate(part)).astype(np.int64) if part else np.zeros(0, np.int64)
        for part in parts
    ]


def _divide(n, fractions, carry):
    """Divides n images of a class by largest remainder, and carries what each split is owed on to
    the next class.

    Without the carry, a split's total drifts: of 100 classes with 5 images each, 10 % would be
    nothing at all.
    """
    shares = np.round(n * fractions, 9)  # or 0.7 * 10 may lie just below 7
    counts = np.floor(shares)
    needed = fractions > 0
    if n < np.count_nonzero(needed):
        needed[1:] = False
    counts = np.maximum(counts, needed)
    while counts.sum() > n:
        counts[np.argmax(counts)] -= 1
    owed = carry + shares - counts
    for _ in range(int(n - counts.sum())):
        split = np.argmax(np.where(counts < shares, owed, -np.inf))
        counts[split] += 1
        owed[split] -= 1
    return counts.astype(np.int64), owed


def _check_labels(splits):
    classes = next(iter(splits.values())).classes
    labels = np.unique(np.concatenate([s.labels for s in splits.values()]))
    if len(classes) < 2 or len(labels) < 2:
        raise UserError(
            f"{len(labels)} of the data's {len(classes)} classes has images: a classifier needs two"
        )
    if labels[0] < 0 or labels[-1] >= len(classes):
        raise UserError(
            f"labels must be 0 to {len(classes) - 1}, one a class; found {labels[0]} to {labels[-1]}"
        )
