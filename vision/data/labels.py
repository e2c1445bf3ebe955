"""Labels typed by people: stray whitespace, several spellings of a class, the order of classes."""

import collections
import contextlib
import contextvars
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vision.data.findings import Finding, summarize
from vision.errors import UserError


def strip(texts: Sequence[str]) -> tuple[list[str], list[Finding]]:
    """Removes leading and trailing whitespace from labels.

    Returns:
        (texts, findings): one finding for each label that had any, with its count.
    """
    stripped = [text.strip() for text in texts]
    changed = collections.Counter(
        old for old, new in zip(texts, stripped, strict=True) if old != new and new
    )
    kind = "labels had leading or trailing whitespace, which is removed"
    return stripped, [Finding(kind, repr(text), f"{n:,} times") for text, n in changed.items()]


def to_indices(texts: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Converts label texts to numbers.

    Returns:
        (labels, classes): int32 (N,), and the class names in order: by value if all are integers,
        else by name.
    """
    names = sorted(set(texts))
    if all(re.fullmatch("-?[0-9]{1,18}", name) for name in names):
        names.sort(key=int)
    number = {name: i for i, name in enumerate(names)}
    return np.fromiter((number[text] for text in texts), np.int32, len(texts)), tuple(names)


def alike(names: Iterable[str]) -> list[list[str]]:
    """Returns groups of names that differ only by case, spaces or Unicode form."""
    groups = collections.defaultdict(list)
    for name in names:
        groups["".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def check_spelling(labels: np.ndarray, classes: Sequence[str]) -> list[Finding]:
    """Returns a finding for each group of `alike` classes, which stay separate.

    Each names the most common spelling and lists all of them with their counts.

    Args:
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
    """
    counts = dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))
    findings = []
    for group in alike(classes):
        group.sort(key=lambda name: -counts[name])
        spellings = ", ".join(f"{name!r} {counts[name]:,} times" for name in group)
        findings.append(
            Finding("classes are spelled in several ways and stay separate", group[0], spellings)
        )
    return findings


# Classes that a source must have: a classifier learns from two, and is judged on any.
_FEWEST: contextvars.ContextVar[int] = contextvars.ContextVar("fewest", default=2)


@contextlib.contextmanager
def requiring(fewest: int) -> Iterator[None]:
    """Lets sources that are opened in the block have as few classes as `fewest`."""
    token = _FEWEST.set(fewest)
    try:
        yield
    finally:
        _FEWEST.reset(token)


def are_enough(count: int) -> bool:
    """Whether a source may have this number of classes with images."""
    return count >= _FEWEST.get()


def require_two_classes(
    title: str, classes: Sequence[str], findings: Sequence[Finding] = ()
) -> None:
    """Raises `UserError` if there are fewer than two classes, with what was odd, losses first."""
    if not are_enough(len(classes)):
        counts = collections.Counter((finding.kind, finding.lost) for finding in findings)
        kinds = sorted(counts, key=lambda kind: (not kind[1], -counts[kind]))
        lines = [summarize([f for f in findings if f.kind == kind], 1)[0] for kind, _ in kinds[:3]]
        raise UserError(
            f"{title} has {len(classes)} class(es) with images, but a classifier needs two"
            + "".join(f"; {line}" for line in lines)
        )
