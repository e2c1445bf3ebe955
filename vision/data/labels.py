"""Labels that people typed: blanks at their ends, one class spelled in several ways, and the order
of the classes."""

import collections
import re
import unicodedata

import numpy as np

from vision.data.findings import Finding


def strip(texts):
    """Takes blanks away from the ends of labels.

    Returns:
        (texts, findings): one finding for each label that had any, with its count.
    """
    stripped = [text.strip() for text in texts]
    changed = collections.Counter(
        old for old, new in zip(texts, stripped, strict=True) if old != new and new
    )
    kind = "labels had blanks at their ends, which are taken away"
    return stripped, [Finding(kind, repr(text), f"{n:,} times") for text, n in changed.items()]


def to_indices(texts):
    """Turns labels into numbers.

    Returns:
        (labels, classes): int32 (N,), and the names in their order: by value where all are whole
        numbers, else by name.
    """
    names = sorted(set(texts))
    if all(re.fullmatch("-?[0-9]{1,18}", name) for name in names):
        names.sort(key=int)
    number = {name: i for i, name in enumerate(names)}
    return np.fromiter((number[text] for text in texts), np.int32, len(texts)), tuple(names)


def alike(names):
    """Returns the groups of names that differ by case, blanks or Unicode form only: [["Cat",
    "cat"], ...]."""
    groups = collections.defaultdict(list)
    for name in names:
        groups["".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def check_spelling(labels, classes):
    """Returns a finding for each group of `alike` classes, which stay apart: its commonest
    spelling, and the others.

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
            Finding("classes are spelled in several ways, and stay apart", group[0], spellings)
        )
    return findings
