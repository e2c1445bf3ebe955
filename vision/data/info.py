"""What a source holds, in a page of text: parts, images of each class, sizes, findings."""

import collections

import numpy as np

from vision.data.decode import UnreadableImage, format_of
from vision.data.findings import summarize

SAMPLE = 64  # images of each part that are decoded
ROWS = 40  # classes that are shown; of more, those with the most and the fewest images


def describe(spec, parts):
    """Returns the lines of the page.

    Args:
        spec: the source's name.
        parts: {part: source}.
    """
    sizes = ", ".join(f"{len(source):,} {part}" for part, source in parts.items())
    classes = next(iter(parts.values())).classes
    lines = [f"{spec}: {sizes}; {len(classes)} classes"]
    lines += _table(classes, parts)
    for part, source in parts.items():
        lines += _sample(part, source)
    findings = dict.fromkeys(finding for source in parts.values() for finding in source.findings)
    return [*lines, *(f"note: {line}" for line in summarize(list(findings)))]


def _table(classes, parts):
    """Returns the images of each class in each part, and how far the classes are from balance."""
    counts = {part: np.bincount(s.labels, minlength=len(classes)) for part, s in parts.items()}
    total = sum(counts.values())
    rows = range(len(classes))
    if len(classes) > ROWS:
        order = np.argsort(-total, kind="stable")
        rows = [*order[: ROWS // 2], None, *order[-ROWS // 2 :]]
    cells = [["class", *parts]]
    for row in rows:
        cells.append(
            ["..."] * len(cells[0])
            if row is None
            else [classes[row], *(f"{c[row]:,}" for c in counts.values())]
        )
    name = max(len(row[0]) for row in cells)
    lines = [
        " ".join([first.ljust(name), *(cell.rjust(9) for cell in rest)]) for first, *rest in cells
    ]
    for part, found in counts.items():
        most = int(found.argmax())
        least = int(found.argmin())
        ratio = f"{found[most] / found[least]:.3g} times as many" if found[least] else "none"
        lines.append(
            f"{part}: most images {classes[most]} ({found[most]:,}), fewest {classes[least]} ({found[least]:,}), "
            f"imbalance: {ratio}"
        )
    return lines


def _sample(part, source):
    """Returns what some images of a part are like."""
    shapes = []
    formats = collections.Counter()
    unreadable = {}
    for index in np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).astype(int).tolist():
        try:
            shapes.append(source[index]["image"].shape)
            formats[format_of(source.file(index))] += 1
        except UnreadableImage as error:
            unreadable[error.name] = error.reason
    count = len(shapes) + len(unreadable)
    lines = [f"note: {name}: {reason}" for name, reason in unreadable.items()]
    if shapes:
        heights, widths, channels = np.transpose(shapes)
        kinds = ", ".join(f"{n} {name}" for name, n in formats.most_common())
        colors = " and ".join({1: "gray", 3: "RGB"}[c] for c in sorted(set(channels.tolist())))
        lines.insert(
            0,
            f"{part}, {count} images looked at: {_span(widths)} x {_span(heights)} px, {colors}; {kinds}",
        )
    return lines


def _span(sides):
    low = sides.min()
    middle = int(np.median(sides))
    high = sides.max()
    return f"{low}" if low == high else f"{low}..{middle}..{high}"
