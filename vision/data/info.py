"""Describes a source in a page of text: its parts, the images of each class, sizes, findings."""

from collections.abc import Mapping

import numpy as np

from vision.data.findings import summarize
from vision.data.groups import group_findings
from vision.data.sample import look
from vision.data.sources import Source
from vision.data.splits import unseen_classes

SAMPLE = 64  # images of each part that are decoded
ROWS = 40  # classes that are shown; if there are more, those with the most and the fewest images


def describe(spec: str, parts: Mapping[str, Source]) -> list[str]:
    """Returns the lines of the page.

    Args:
        spec: the source's name.
        parts: {part: source}.
    """
    sizes = ", ".join(f"{len(source):,} {part}" for part, source in parts.items())
    classes = next(iter(parts.values())).classes
    lines = [f"{spec}: {sizes}; {len(classes)} classes"]
    counts = {part: np.bincount(s.labels, minlength=len(classes)) for part, s in parts.items()}
    lines += _table(classes, counts)
    lines += [_imbalance(part, classes, own_counts) for part, own_counts in counts.items()]
    for part, source in parts.items():
        lines += _sample(part, source)
    findings = dict.fromkeys(finding for source in parts.values() for finding in source.findings)
    findings |= dict.fromkeys((*group_findings(parts), *unseen_classes(parts)))
    return [*lines, *(f"note: {line}" for line in summarize(findings))]


def _table(classes, counts):
    """Returns lines with the number of images of each class in each part."""
    rows = list(range(len(classes)))
    if len(classes) > ROWS:
        order = np.argsort(-sum(counts.values()), kind="stable")
        rows = [*order[: ROWS // 2], None, *order[-ROWS // 2 :]]
    table = [["class", *counts]]
    for row in rows:
        if row is None:
            table.append(["..."] * len(table[0]))
        else:
            table.append([classes[row], *(f"{count[row]:,}" for count in counts.values())])
    width = max(len(name) for name, *_ in table)
    return [
        " ".join([name.ljust(width), *(cell.rjust(9) for cell in cells)]) for name, *cells in table
    ]


def _imbalance(part, classes, counts):
    """Returns a line with the largest and the smallest class of a part."""
    most = int(counts.argmax())
    least = int(counts.argmin())
    ratio = f"{counts[most] / counts[least]:.3g} times as many" if counts[least] else "none"
    return (
        f"{part}: most images {classes[most]} ({counts[most]:,}), "
        f"fewest {classes[least]} ({counts[least]:,}), imbalance: {ratio}"
    )


def _sample(part, source):
    """Returns lines that describe some images of a part: sizes, colors, formats."""
    sample = look(source, SAMPLE)
    lines = [f"note: {name}: {reason}" for name, reason in sample.unreadable.items()]
    lines += [f"note: {line}" for line in summarize(sample.findings)]
    if not sample.shapes:
        return lines
    count = len(sample.shapes) + len(sample.unreadable)
    heights, widths, channels = np.transpose(list(sample.shapes.values()))
    size = f"{_span(widths)} x {_span(heights)} px"
    colors = " and ".join({1: "gray", 3: "RGB"}[c] for c in sorted(set(channels.tolist())))
    format_counts = ", ".join(f"{n} {name}" for name, n in sample.formats.most_common())
    return [f"{part}, {count} images sampled: {size}, {colors}; {format_counts}", *lines]


def _span(sides):
    low = sides.min()
    middle = int(np.median(sides))
    high = sides.max()
    return f"{low}" if low == high else f"{low}..{middle}..{high}"
