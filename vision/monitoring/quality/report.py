"""The report on quality: a page with the history of each version, its recalls and calibration."""

import datetime
import pathlib
from typing import Any

from vision.monitoring.quality.analysis import Analysis
from vision.reference.quality import BINS, ESTIMATORS
from vision.support.page import render, write_report

TEMPLATE = pathlib.Path(__file__).with_name("report.html")
CLASSES = 30  # whose recalls are drawn
WIDTH = 600  # of the drawing of a history
HEIGHT = 160
COLORS = {"cbpe": "c0", "atc": "c1", "doc": "c3"}  # classes of the frame


def write(out: pathlib.Path, analysis: Analysis) -> None:
    """Writes report.html and quality.json into a directory, which is made if it is missing.

    Raises:
        UserError, RunError: it cannot be written to; what was there remains.
    """
    write_report(out, render(TEMPLATE, _context(analysis)), "quality.json", analysis.record)


def _context(analysis: Analysis) -> dict[str, Any]:
    record = analysis.record
    return {
        "record": record,
        "date": datetime.date.today().isoformat(),
        "titles": ESTIMATORS,
        "colors": COLORS,
        "size": (WIDTH, HEIGHT),
        "versions": [
            {
                "version": version,
                "last": None
                if version["latest"] is None
                else version["windows"][version["latest"]],
                "history": _history(version["windows"], record),
                "recalls": _recalls(version),
                "reliability": _reliability(analysis.quality.bins, version),
            }
            for version in record["versions"]
        ],
    }


def _history(windows, record):
    """Returns what an SVG of `WIDTH` x `HEIGHT` draws: the truth with intervals, the estimates and
    the bundle's own accuracy."""
    expected = record["reference"]["accuracy"]
    numbers = [expected]
    for window in windows:
        numbers += window["estimates"].values()
        if window["labels"]:
            numbers += (window["accuracy"]["low"], window["accuracy"]["high"])
    low = max(min(numbers) - 0.02, 0)
    high = min(max(numbers) + 0.02, 1)

    def y(value):
        return f"{HEIGHT - (HEIGHT - 8) * (value - low) / max(high - low, 1e-9) - 4:.1f}"

    step = (WIDTH - 24) / max(len(windows) - 1, 1)
    places = [f"{12 + step * i:.1f}" for i in range(len(windows))]
    truth = [
        {
            "x": x,
            "y": y(window["accuracy"]["value"]),
            "low": y(window["accuracy"]["low"]),
            "high": y(window["accuracy"]["high"]),
            "alarm": window["alarm"],
            "label": f"{window['start']}: {window['accuracy']['value']:.1%} of "
            f"{window['labels']:,} labels",
        }
        for x, window in zip(places, windows, strict=True)
        if window["labels"]
    ]
    lines = {}
    for name in ESTIMATORS:
        points = [(x, y(w["estimates"][name])) for x, w in zip(places, windows, strict=True)]
        # that of a window alone would be a point, which is not drawn
        lines[name] = points if len(points) > 1 else [*points, ("36", points[0][1])]
    return {"low": low, "high": high, "expected": y(expected), "truth": truth, "lines": lines}


def _recalls(version):
    """Returns the recalls of the latest window with enough labels: alarms first, then those that
    are lower than before."""
    if version["latest"] is None:
        return []
    recall = version["windows"][version["latest"]]["recall"]

    def place(item):
        share = item[1]
        drop = (share["expected"] or 0) - share["value"]
        return not share.get("alarm", False), -drop

    return sorted(recall.items(), key=place)[:CLASSES]


def _reliability(bins, version):
    """Returns [(name, color, circles)] of an SVG of 100 x 100: accuracy by confidence."""
    if version["latest"] is None:
        return []
    own = version["windows"][version["latest"]]["calibration"]
    columns = (
        ("when exported", "c2", (bins.images, bins.right, bins.confidence)),
        ("latest window", "c0", (own["images"], own["right"], own["confidence"])),
    )
    return [(name, color, _circles(*counts)) for name, color, counts in columns]


def _circles(images, right, confidence):
    """Returns the circles of bins that have images; the area is the share of the images."""
    total = sum(images)
    return [
        {
            "x": f"{100 * confidence[i]:.1f}",
            "y": f"{100 - 100 * right[i] / images[i]:.1f}",
            "radius": f"{1 + 6 * (images[i] / total) ** 0.5:.1f}",
            "label": f"confidence {confidence[i]:.1%}: {right[i] / images[i]:.1%} of "
            f"{images[i]:,} right",
        }
        for i in range(BINS)
        if images[i]
    ]
