"""The audit as one page for a browser: pictures inside, no script, nothing fetched."""

import collections
import datetime
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vision.audit import power
from vision.audit.duplicates import is_leak
from vision.audit.issues import Issue
from vision.audit.result import Audited
from vision.data.decode import UnreadableImage
from vision.data.findings import summarize
from vision.data.pictures import picture
from vision.support.files import replacing
from vision.support.page import render

SHOWN = 24  # pictures, or pairs of them, shown of a kind
CLASSES = 60  # bars of the class balance; with more classes, only the largest and the smallest
IMBALANCED = 10  # ratio of the class sizes from which it is mentioned


class Kind(NamedTuple):
    """The texts about a kind of issue.

    Attributes:
        title: title of its section.
        meaning: what it means, and what to do about it.
        state: urgency: "bad" or "look".
        verdict: sentence at the top of the report, with {} for the number of issues.
    """

    title: str
    meaning: str
    state: str
    verdict: str


KINDS = {
    "leak": Kind(
        "The same picture in two splits",
        "The model learns from images that it is then tested on, so its test results are too good. "
        "Keep the copy in test or val.",
        "bad",
        "Pictures in one split that are also in another: {}. "
        "Drop these copies before you measure anything.",
    ),
    "unreadable": Kind(
        "Unreadable files",
        "Empty, cut short or not an image. Restore them from their origin.",
        "bad",
        "Files that cannot be read: {}.",
    ),
    "duplicate": Kind(
        "The same pixels more than once",
        "Within a split. The picture counts more than others; if the labels differ, one is wrong.",
        "look",
        "Images that repeat another one of their split, pixel by pixel: {}.",
    ),
    "near_duplicate": Kind(
        "Nearly the same picture more than once",
        "Within a split: resized, re-encoded, cropped by a few percent or brightened.",
        "look",
        "Images that are nearly the same as another one of their split: {}.",
    ),
    "wrong_label": Kind(
        "Labels that look wrong",
        "A classifier that never saw the image is confident in another class. "
        "Check each: the classifier may be wrong.",
        "look",
        "Labels that look wrong: {}. Check the first ones, then decide on the rest.",
    ),
    "spelling": Kind(
        "Classes spelled in two ways",
        "They count as two classes. Relabel to the most common spelling.",
        "bad",
        "Images of classes spelled in two ways: {}.",
    ),
    "blank": Kind(
        "Blank images",
        "Nearly one gray value throughout: nothing can be learned from them.",
        "look",
        "Blank images: {}.",
    ),
    "outlier": Kind(
        "Outliers",
        "Unlike the rest of their class: another subject, a broken picture, a wrong label.",
        "look",
        "Images unlike the rest of their class: {}.",
    ),
    "blurred": Kind(
        "Blurred images",
        "Far less detail than is usual for their class.",
        "look",
        "Blurred images: {}.",
    ),
    "tiny": Kind(
        "Tiny images",
        "Far smaller than the rest: they are enlarged before training.",
        "look",
        "Tiny images: {}.",
    ),
    "odd_aspect": Kind(
        "Odd shapes",
        "Long and narrow: most of the image is cut away, or squeezed, before training.",
        "look",
        "Long and narrow images: {}.",
    ),
}
# Kinds in the order of the verdicts.
VERDICTS = (
    "leak",
    "unreadable",
    "spelling",
    "wrong_label",
    "duplicate",
    "near_duplicate",
    "blank",
    "outlier",
    "blurred",
    "tiny",
    "odd_aspect",
)


def write(path: pathlib.Path, audited: Audited) -> None:
    """Writes report.html to a path."""
    page = render(pathlib.Path(__file__).with_name("report.html"), context(audited))
    with replacing(path) as file:
        file.write(page)


def context(audited: Audited) -> dict[str, Any]:
    """Returns the values that the page shows, by name."""
    images = audited.images
    scan = audited.scan
    summary = audited.summary
    by_kind = collections.defaultdict(list)
    for issue in audited.issues:
        by_kind["leak" if is_leak(images, issue) else issue.kind].append(issue)
    sections = [_section(images, kind, by_kind[kind]) for kind in KINDS if by_kind[kind]]
    return {
        "summary": summary,
        "date": datetime.date.today().isoformat(),
        "verdicts": verdicts(audited, by_kind),
        "sections": sections,
        "balance": _bars(summary["balance"]["counts"]),
        "sizes": _sizes(scan),
        "formats": collections.Counter(scan.format[scan.readable].tolist()).most_common(),
        "pairs": [_pair(images, pair) for pair in audited.pairs[:SHOWN]],
        "further_pairs": max(0, len(audited.pairs) - SHOWN),
        "agreement": audited.agreement,
        "findings": summarize(audited.findings, limit=10),
        "applied": audited.applied,
    }


def verdicts(
    audited: Audited, by_kind: Mapping[str, Sequence[Issue]]
) -> list[tuple[str, str, str]]:
    """Returns [(state, sentence, section)], most urgent first.

    Args:
        audited: result of the audit.
        by_kind: {key of `KINDS`: issues}.

    Returns:
        States are "bad", "look" or "good"; sections are ids in the page.
    """
    lines = [
        *_kind_verdicts(audited, by_kind),
        *_balance_verdicts(audited.summary),
    ]
    if audited.pairs:
        sentence = f"Pairs of classes that are hard to tell apart: {len(audited.pairs):,}."
        lines.append(("look", sentence, "pairs"))
    if audited.findings:
        sentence = f"Problems found when the source was opened: {len(audited.findings):,}."
        lines.append(("look", sentence, "findings"))
    if not audited.summary["trusted"]:
        sentence = power.describe(audited.power, audited.summary["embeddings"])
        lines.append(("look", f"Labels were not checked: {sentence}.", "overview"))
    if not lines:
        return [("good", "No problem was found: these data are fit for training.", "balance")]
    return sorted(lines, key=lambda line: line[0] != "bad")


def _kind_verdicts(audited, by_kind):
    """Yields the verdicts about issues."""
    for kind in VERDICTS:
        if by_kind[kind]:
            sentence = KINDS[kind].verdict.format(f"{len(by_kind[kind]):,}")
            yield KINDS[kind].state, sentence, kind
    if conflicts := audited.summary["duplicates"]["conflicts"]:
        section = next(kind for kind in ("leak", "duplicate", "near_duplicate") if by_kind[kind])
        sentence = f"Pictures that occur several times, with different labels: {conflicts:,}."
        yield "bad", sentence, section


def _balance_verdicts(summary):
    """Yields the verdicts about missing classes and the class balance."""
    for split in summary["splits"]:
        if missing := [label for label, place in summary["balance"]["absent"] if place == split]:
            names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            state = "bad" if split == "train" else "look"
            sentence = f"Classes without any image in {split}: {len(missing):,} ({names})."
            yield state, sentence, "balance"
    if (ratio := summary["balance"]["ratio"]) >= IMBALANCED:
        sentence = (
            f"Train's largest class has {ratio:,.0f} times as many images as its smallest one. "
            "Try objective.class_weights or imbalance.sampling, and report balanced accuracy."
        )
        yield "look", sentence, "balance"


def _section(images, kind, issues):
    """Returns the gallery of one kind, in the order of the issues.

    The worst issue of a kind does not always have the highest score.
    """
    actions = collections.Counter(issue.action.partition(":")[0] or "none" for issue in issues)
    shown = issues[:SHOWN]
    return {
        "kind": kind,
        "title": KINDS[kind].title,
        "meaning": KINDS[kind].meaning,
        "count": len(issues),
        "rest": len(issues) - len(shown),
        "actions": actions.most_common(),
        "cards": [_card(images, issue) for issue in shown],
    }


def _card(images, issue):
    rows = [row for row in (issue.row, issue.other) if row >= 0]
    return {
        "images": [_figure(images, row) for row in rows],
        "name": issue.name,
        "score": f"{issue.score:.3g}",
        "suggestion": issue.suggestion,
    }


def _figure(images, row):
    name = images.name(row)
    return {
        "name": name,
        "short": os.path.basename(name) or name,
        "label": images.class_of(row),
        "split": images.split_of(row),
        "picture": _picture(images, row),
    }


def _picture(images, row):
    """Returns an image as a data URI; "" if it cannot be read."""
    try:
        return picture(images.image(row))
    except UnreadableImage:
        return ""


def _bars(counts):
    """Returns the class balance as bars: name, images by split, and their widths in percent."""
    splits = list(counts)
    rows = [
        {"name": name, "counts": [counts[split][name] for split in splits]}
        for name in counts[splits[0]]
    ]
    largest = max(sum(row["counts"]) for row in rows) or 1
    for row in rows:
        row["total"] = sum(row["counts"])
        row["widths"] = [round(100 * n / largest, 3) for n in row["counts"]]
    ordered = sorted(rows, key=lambda row: -row["total"])
    hidden = max(0, len(rows) - CLASSES)
    if not hidden:
        return {"splits": splits, "rows": rows, "hidden": 0, "curve": ""}
    return {
        "splits": splits,
        "rows": [*ordered[: CLASSES // 2], *ordered[-CLASSES // 2 :]],
        "hidden": hidden,
        "curve": _curve([row["total"] for row in ordered], largest),
    }


def _curve(totals, largest):
    """Returns the points of an SVG polygon, 100 x 100: sorted class sizes, logarithmic."""
    heights = 100 * np.log1p(totals) / np.log1p(largest)
    points = [
        f"{100 * i / (len(totals) - 1):.2f},{100 - height:.2f}" for i, height in enumerate(heights)
    ]
    return " ".join(["0,100", *points, "100,100"])


def _sizes(scan):
    """Returns the most common image sizes, their number, their range, and the median file size."""
    readable = scan.readable
    if not readable.any():
        return {"common": [], "kinds": 0, "range": "", "bytes": 0}
    shapes = np.stack([scan.width[readable], scan.height[readable], scan.channels[readable]], 1)
    sizes, numbers = np.unique(shapes, axis=0, return_counts=True)
    order = np.argsort(-numbers, kind="stable")[:8]
    least_width, least_height, _ = shapes.min(0)
    most_width, most_height, _ = shapes.max(0)
    width, height, _ = np.median(shapes, axis=0)
    return {
        "common": [("{}x{}x{}".format(*sizes[i]), int(numbers[i])) for i in order],
        "kinds": len(sizes),
        "range": f"{least_width} to {most_width} wide (median {width:.0f}), "
        f"{least_height} to {most_height} high (median {height:.0f})",
        "bytes": int(np.median(scan.bytes[readable])),
    }


def _pair(images, pair):
    """Returns a pair of confusable classes with pictures of both."""
    return {
        "first": pair.first,
        "second": pair.second,
        "share": pair.share,
        "count": pair.count,
        "images": [_figure(images, row) for row in pair.rows],
    }
