"""Three splits of any source: disjoint, complete, the same on every machine."""

import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from vision.data.beside import Beside
from vision.data.draw import draw
from vision.data.findings import Finding
from vision.data.identity import keys_of, units_of
from vision.data.sources import Source
from vision.data.subset import Subset
from vision.errors import UserError, check_choice

_EXAMPLES = 3  # classes that a message names
SPLIT_BY = ("name", "position")  # choices of config.data.split_by


class Joined(Beside):
    """Several sources with the same classes, one after the other, as a source.

    Args:
        sources: at least one source.
    """

    def __init__(self, sources: Sequence[Source]):
        super().__init__(sources)
        self.classes = sources[0].classes
        self.encoded = any(source.encoded for source in sources)
        self.bits = getattr(sources[0], "bits", 0)
        self.labels = np.concatenate([source.labels for source in sources])
        self.findings = sources[0].findings

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        source, index = self.locate(index)
        return source[index]

    def name(self, index: int) -> str:
        source, index = self.locate(index)
        return source.name(index)

    def file(self, index: int) -> bytes | None:
        source, index = self.locate(index)
        return source.file(index)


class NamedParts(Joined):
    """Parts of several sources that have their own splits and that have none.

    Args:
        parts: {part: its images}, which have names of their own.
    """

    def __init__(self, parts: Mapping[str, Source]):
        super().__init__(list(parts.values()))
        self._keys = np.concatenate([keys_of(source, part) for part, source in parts.items()])

    def keys(self) -> list[str]:
        """Returns what each image is called."""
        return self._keys.tolist()


def same_images(a: Source, b: Source) -> bool:
    """Whether two sources hold the same images, whatever their labels.

    They do if test stands in for val, for example.
    """
    return a is b or (len(a) == len(b) and all(a.name(i) == b.name(i) for i in range(len(a))))


def split_seed(config: ConfigDict) -> int:
    """Returns the seed that a config's data are divided with."""
    return config.seed if config.data.split_seed == -1 else config.data.split_seed


def make_splits(
    splits: Mapping[str, Source],
    fractions: Iterable[float] = (0.7, 0.2, 0.1),
    val_fraction: float = 0.1,
    seed: int = 0,
    split_by: str = "name",
) -> dict[str, Source]:
    """Returns {"train": source, "val": source, "test": source}.

    A source without splits of its own ("all", or only "train") is divided by `fractions`. A
    source's own splits are kept, and a missing val is taken out of train by `val_fraction`. If a
    source has only train and val, such as ImageNet, its val is the one that papers report: it
    becomes test, and a val is taken out of train. So no image is ever in two splits, with one
    exception, a `val_fraction` of 0: then all of train is used for training, as in papers that
    report only on the test split, and test stands in for val, so nothing may be chosen by it. A
    class that only the test split has is kept: the audit reports it.

    Args:
        splits: the result of `open_splits`.
        fractions: shares of train, val and test, each above 0, with the sum 1.
        val_fraction: share of train that becomes val, at least 0 and below 1.
        seed: seed of the random choice within each class. The same seed gives the same splits on
            every machine.
        split_by: "name" divides images that have names by the hash of each one's name, see
            `vision.data.draw`; "position" shuffles positions within each class, see `stratify`.
            Groups of images are always divided by name, and images without names, as in arrays, by
            position.

    Raises:
        UserError: fractions out of range, no images to train on, too few images for a split, or
            fewer than two classes.
    """
    fractions = tuple(fractions)
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            "data.fractions must be three shares above 0 that sum to 1 (train, val, test), "
            f"got {fractions}"
        )
    if not 0 <= val_fraction < 1:
        raise UserError(f"data.val_fraction must be in [0, 1), got {val_fraction}")
    check_choice("data.split_by", split_by, SPLIT_BY)
    train = splits.get("all", splits.get("train"))
    if train is None:
        raise UserError(
            f"the data have no train split, only {', '.join(splits) or 'none'}: "
            "there is nothing to learn from"
        )
    divide = functools.partial(
        _divide_parts, fractions=fractions, val_fraction=val_fraction, seed=seed, by=split_by
    )
    if "all" in splits and "train" in splits:  # of several sources, some have splits of their own
        check_labels({"train": Joined([splits["all"], splits["train"]])})
        undivided = divide({"all": splits["all"]})
        divided = divide({name: source for name, source in splits.items() if name != "all"})
        return {
            name: NamedParts({"all": undivided[name], "train": divided[name]})
            for name in ("train", "val", "test")
        }
    check_labels(splits)
    return divide(splits)


def _divide_parts(splits, fractions, val_fraction, seed, by):
    """Returns {"train": source, "val": source, "test": source}; see `make_splits`."""
    train = splits.get("all", splits.get("train"))
    own = _own_splits(splits, val_fraction)
    if "test" in own:
        val = 0.0 if "val" in own else val_fraction
        fractions = (1 - val, val, 0.0)
    units = units_of(train, "all" if "all" in splits else "train", by == "name")
    if units is None:
        indices = stratify(train.labels, fractions, seed)
    else:
        indices = draw(units, train.labels, fractions, seed)
    result: dict[str, Source] = {}
    for name, positions in zip(("train", "val", "test"), indices, strict=True):
        result[name] = own[name] if name in own else Subset(train, positions)
        if not len(result[name]):
            raise UserError(
                f"no images are left for {name}: {len(train)} are too few; "
                "add some or change data.fractions"
            )
    return result


def _own_splits(splits, val_fraction):
    """Returns the val and test that need not be taken out of train, {name: source}."""
    own = {name: splits[name] for name in ("val", "test") if name in splits}
    if set(own) == {"val"}:
        own = {"test": own["val"]}
    if set(own) == {"test"} and not val_fraction:
        own["val"] = own["test"]
    return own


def stratify(labels: np.ndarray, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Divides positions at random, class by class.

    Each class's count in each split is within 1 of its share, and so is each split's total, except
    for tiny classes: one with an image for every split has at least one in each, and any other has
    at least one in the first.

    Args:
        labels: (N,) integers >= 0.
        fractions: the splits' shares, with the sum 1. A share of 0 gets nothing.
        seed: an integer.

    Returns:
        A sorted (n,) int64 array of positions for each fraction. Together they are 0 to N - 1, each
        exactly once.
    """
    parts: list[list[np.ndarray]] = [[] for _ in fractions]
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
    """Divides n images of a class by largest remainder, carrying over what each split is owed.

    Without the carry a split's total drifts: 10 % of 100 classes with 5 images each would be
    nothing at all.
    """
    shares = np.round(n * fractions, 9)  # otherwise 0.7 * 10 may be just below 7
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


def check_labels(splits: Mapping[str, Source]) -> None:
    """Raises `UserError` unless labels are in range and there are two classes to learn from."""
    classes = next(iter(splits.values())).classes
    labels = np.unique(np.concatenate([source.labels for source in splits.values()]))
    if len(classes) < 2 or len(labels) < 2:
        raise UserError(
            "a classifier needs images of at least 2 classes, but there are images of "
            f"{len(labels)} of the data's {len(classes)}"
        )
    if labels[0] < 0 or labels[-1] >= len(classes):
        raise UserError(
            f"labels must be 0 to {len(classes) - 1}, one per class, "
            f"but they are {labels[0]} to {labels[-1]}"
        )
    learned = np.unique(splits["train"].labels) if "train" in splits else labels
    if len(learned) < 2:
        names = ", ".join(repr(classes[label]) for label in learned) or "none"
        raise UserError(
            f"the train split has a single class ({names}) of the data's {len(classes)}: "
            "is it the right split, and are its labels complete?"
        )
    for name in ("val", "test"):
        if "train" in splits and name in splits:
            _check_shared(name, splits[name], learned)


def _check_shared(name, source, learned):
    """Raises `UserError` if a split has none of the classes that are learned."""
    if not len(source) or np.isin(source.labels, learned).any():
        return
    own = ", ".join(repr(source.classes[label]) for label in np.unique(source.labels)[:_EXAMPLES])
    others = ", ".join(repr(source.classes[label]) for label in learned[:_EXAMPLES])
    raise UserError(
        f"the {name} split ({own}, ...) has none of the classes of train ({others}, ...): "
        "give the same class the same name in both"
    )


def unseen_classes(splits: Mapping[str, Source]) -> list[Finding]:
    """Returns a finding for each class of val or test that train lacks, if there is a train."""
    if "train" not in splits:
        return []
    seen = set(np.unique(splits["train"].labels))
    classes = splits["train"].classes
    findings = []
    for name in ("val", "test"):
        if name not in splits:
            continue
        labels, counts = np.unique(splits[name].labels, return_counts=True)
        for label, count in zip(labels, counts, strict=True):
            if label not in seen:
                kind = f"classes are in {name} but not in train"
                detail = "1 image" if count == 1 else f"{count:,} images"
                findings.append(Finding(kind, classes[label], detail))
    return findings
