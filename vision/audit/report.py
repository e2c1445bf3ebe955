"""The audit as one page that a person reads in a browser: pictures inside, no script, nothing
fetched."""

import collections
import datetime
import os
import pathlib

import numpy as np

from vision.audit.duplicates import is_leak
from vision.data.decode import UnreadableImage
from vision.data.findings import summarize
from vision.data.pictures import picture
from vision.support.files import replacing
from vision.support.page import render

SHOWN = 24  # pictures, or pairs of them, of a kind
CLASSES = 60  # bars of the class balance; of more classes the largest and the smallest

# What each kind is called, what it means, and what to do about it.
KINDS = {
    "leak": (
        "The same picture in two splits",
        "What the model learned from, it is then tested on, so the test says too much. Keep the copy in test or val.",
    ),
    "unreadable": (
        "Unreadable files",
        "Empty, cut short or no image. Replace them from where they came from.",
    ),
    "duplicate": (
        "The same pixels more than once",
        "Within a split. It counts for more than other pictures; where the labels differ, one is wrong.",
    ),
    "near_duplicate": (
        "Nearly the same picture more than once",
        "Within a split: resized, re-encoded, cropped by a few percent or brightened.",
    ),
    "wrong_label": (
        "Labels that look wrong",
        "A classifier that never saw the image is sure of another class. Look at each: it may be the one that errs.",
    ),
    "spelling": (
        "Classes spelled in two ways",
        "They count as two classes. Relabel to the commonest spelling.",
    ),
    "blank": (
        "Blank images",
        "Nearly one gray value throughout: nothing can be learned from them.",
    ),
    "outlier": (
        "Outliers",
        "Unlike the others of their class: another subject, a broken picture, a wrong label.",
    ),
    "blurred": ("Blurred images", "Far less detail than is usual for their class."),
    "tiny": ("Tiny images", "Far smaller than the others: they are blown up before training."),
    "odd_aspect": (
        "Odd shapes",
        "Long and narrow: most of it is cut away, or squeezed, before training.",
    ),
}


def write(path, audited):
    """Writes report.html.

    Args:
        path: the file.
        audited: `vision.audit.audit.Audited`.
    """
    page = render(pathlib.Path(__file__).with_name("report.html"), context(audited))
    with replacing(path) as file:
        file.write(page)


def context(audited):
    """Returns what the page shows, by name."""
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


# Of each kind: how urgent it is, and the sentence under the head of the report.
URGENT = {
    "leak": (
        "bad",
        "Pictures of one split that another has too: {}. Drop these copies before anything is measured.",
    ),
    "unreadable": ("bad", "Files that cannot be read: {}."),
    "spelling": ("bad", "Images of classes that are spelled in two ways: {}."),
    "wrong_label": (
        "look",
        "Labels that look wrong: {}. Look at the first ones, then decide on the rest.",
    ),
    "duplicate": ("look", "Images that repeat another one of their split, pixel by pixel: {}."),
    "near_duplicate": (
        "look",
        "Images that are nearly the same as another one of their split: {}.",
    ),
    "blank": ("look", "Blank images: {}."),
    "outlier": ("look", "Images unlike the rest of their class: {}."),
    "blurred": ("look", "Blurred images: {}."),
    "tiny": ("look", "Tiny images: {}."),
    "odd_aspect": ("look", "Long and narrow images: {}."),
}
IMBALANCED = 10  # from such a ratio on it is mentioned


def verdicts(audited, by_kind):
    """Returns [(state, sentence, section)] for a person, most urgent first; the state is "bad",
    "look" or "good"."""
    summary = audited.summary
    lines = [
        (state, sentence.format(f"{len(by_kind[kind]):,}"), kind)
        for kind, (state, sentence) in URGENT.items()
        if by_kind[kind]
    ]
    if not summary["trusted"]:
        advice = "These embeddings tell too few labels to trust that: use a trained run's, with --embeddings RUN."
        lines = [
            (s, f"{said.partition('.')[0]}. {advice}" if k == "wrong_label" else said, k)
            for s, said, k in lines
        ]
    if conflicts := summary["duplicates"]["conflicts"]:
        repeated = next(kind for kind in ("leak", "duplicate", "near_duplicate") if by_kind[kind])
        lines.append(
            (
                "bad",
                f"Pictures that come several times, with different labels: {conflicts:,}.",
                repeated,
            )
        )
    for split in summary["splits"]:
        if missing := [label for label, where in summary["balance"]["absent"] if where == split]:
            names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            state = "bad" if split == "train" else "look"
            lines.append(
                (
                    state,
                    f"Classes without any image in {split}: {len(missing):,} ({names}).",
                    "balance",
                )
            )
    if (ratio := summary["balance"]["ratio"]) >= IMBALANCED:
        advice = "Try objective.class_weights or imbalance.sampling, and report balanced accuracy."
        lines.append(
            (
                "look",
                f"Train's largest class has {ratio:,.0f} times its smallest one's images. {advice}",
                "balance",
            )
        )
    if audited.pairs:
        lines.append(
            (
                "look",
                f"Pairs of classes that can hardly be told apart: {len(audited.pairs):,}.",
                "pairs",
            )
        )
    if audited.findings:
        lines.append(
            (
                "look",
                f"Oddities found when the source was opened: {len(audited.findings):,}.",
                "findings",
            )
        )
    if not lines:
        return [
            ("good", "Nothing was found that keeps these data from being trained on.", "balance")
        ]
    return sorted(lines, key=lambda line: line[0] != "bad")


def _section(images, kind, issues):
    """Returns one kind's gallery. Pairs are worst first; the worst of a kind is not always the
    highest score."""
    title, meaning = KINDS[kind]
    shown = issues[:SHOWN]
    return {
        "kind": kind,
        "title": title,
        "meaning": meaning,
        "count": len(issues),
        "rest": len(issues) - len(shown),
        "actions": collections.Counter(
            issue.action.partition(":")[0] or "none" for issue in issues
        ).most_common(),
        "cards": [_card(images, issue) for issue in shown],
    }


def _card(images, issue):
    others = [issue.other] if issue.other >= 0 else []
    shown = [_shown(images, row) for row in (issue.row, *others) if row >= 0]
    return {
        "images": shown,
        "name": issue.name,
        "score": f"{issue.score:.3g}",
        "says": issue.suggestion,
    }


def _shown(images, row):
    name = images.name(row)
    return {
        "name": name,
        "short": os.path.basename(name) or name,
        "label": images.class_of(row),
        "split": images.split_of(row),
        "picture": _picture(images, row),
    }


def _picture(images, row):
    """Returns an image as a data URI; "" where it cannot be read."""
    try:
        return picture(images.image(row))
    except UnreadableImage:
        return ""


def _bars(counts):
    """Returns the class balance as bars: of each class its name, images by split, and their share
    of the largest."""
    splits = list(counts)
    rows = [
        {"name": name, "counts": [counts[split][name] for split in splits]}
        for name in counts[splits[0]]
    ]
    most = max(sum(row["counts"]) for row in rows) or 1
    for row in rows:
        row["total"] = sum(row["counts"])
        row["widths"] = [round(100 * n / most, 3) for n in row["counts"]]
    ordered = sorted(rows, key=lambda row: -row["total"])
    hidden = max(0, len(rows) - CLASSES)
    if not hidden:
        return {"splits": splits, "rows": rows, "hidden": 0, "curve": ""}
    kept = [*ordered[: CLASSES // 2], *ordered[-CLASSES // 2 :]]
    return {
        "splits": splits,
        "rows": kept,
        "hidden": hidden,
        "curve": _curve([row["total"] for row in ordered], most),
    }


def _curve(totals, most):
    """Returns the points of an SVG polygon, 100 x 100, of the sorted classes' images on a
    logarithmic scale."""
    heights = 100 * np.log1p(totals) / np.log1p(most)
    points = [
        f"{100 * i / (len(totals) - 1):.2f},{100 - height:.2f}" for i, height in enumerate(heights)
    ]
    return " ".join(["0,100", *points, "100,100"])


def _sizes(scan):
    """Returns [(what, count)] of the commonest sizes, and what the range is."""
    readable = scan.readable
    if not readable.any():
        return {"common": [], "kinds": 0, "range": "", "bytes": 0}
    shapes = np.stack([scan.width[readable], scan.height[readable], scan.channels[readable]], 1)
    found, numbers = np.unique(shapes, axis=0, return_counts=True)
    order = np.argsort(-numbers, kind="stable")[:8]
    (low_w, low_h, _) = shapes.min(0)
    (high_w, high_h, _) = shapes.max(0)
    wide, high = np.median(shapes[:, :2], axis=0)
    return {
        "common": [("{}x{}x{}".format(*found[i]), int(numbers[i])) for i in order],
        "kinds": len(found),
        "range": f"{low_w} to {high_w} wide (median {wide:.0f}), {low_h} to {high_h} high (median {high:.0f})",
        "bytes": int(np.median(scan.bytes[readable])),
    }


def _pair(images, pair):
    """Returns a pair of classes that are taken for each other, with pictures of both."""
    return {
        "first": pair.first,
        "second": pair.second,
        "share": pair.share,
        "count": pair.count,
        "images": [_shown(images, row) for row in pair.rows],
    }
