"""The report on drift: a page with the latest window, the history, and pictures that were kept."""

import datetime
import pathlib
from typing import Any

import numpy as np

from vision.data.decode import UnreadableImage, decode
from vision.data.pictures import picture
from vision.monitoring.analysis import Analysis
from vision.reference import distances
from vision.reference.features import NAMES, count
from vision.support.page import render, write_report

TEMPLATE = pathlib.Path(__file__).with_name("report.html")
PICTURES = 12  # of each kind
CLASSES = 20  # whose shares are drawn
TESTS = {
    "ks": "Kolmogorov-Smirnov",
    "chi_squared": "χ²",
    "mmd": "MMD",
    "mahalanobis": "Mahalanobis",
}


def write(out: pathlib.Path, analysis: Analysis) -> None:
    """Writes report.html and drift.json into a directory, which is made if it is missing.

    Raises:
        UserError, RunError: it cannot be written to; what was there remains.
    """
    write_report(out, render(TEMPLATE, _context(analysis)), "drift.json", analysis.record)


def _context(analysis: Analysis) -> dict[str, Any]:
    record = analysis.record
    windows = record["windows"]
    slots = analysis.slots
    calm = [i for i, window in enumerate(windows) if not window["alarm"] and slots[i].kept]
    drifted = [i for i, window in enumerate(windows) if window["alarm"] and slots[i].kept]
    galleries = []
    if drifted:
        place = drifted[-1]
        names = [name for name in NAMES if windows[place]["features"][name].get("alarm")]
        cards = _cards(analysis, slots[place], names)
        galleries.append(("Images of the latest window with an alarm", windows[place], cards))
    if calm:
        place = calm[-1]
        cards = _cards(analysis, slots[place], [])
        galleries.append(("Images of the latest window without one", windows[place], cards))
    last = windows[-1]
    return {
        "record": record,
        "last": last,
        "date": datetime.date.today().isoformat(),
        "rows": [
            _row(name, measures, analysis.record["limits"]["alpha"])
            for name, measures in last["features"].items()
        ],
        "histograms": _histograms(analysis.reference, slots[-1], last),
        "classes": _class_bars(last["classes"]),
        "lines": _lines(windows),
        "galleries": [gallery for gallery in galleries if gallery[2]],
    }


def _row(name, measures, alpha):
    """Returns a feature's line of the table."""
    if "p" not in measures:
        reason = "one value only" if measures["rows"] else "not measured"
        return {"name": title(name), "state": reason, "kind": ""}
    state = "drift" if measures["alarm"] else "same"
    if not measures["alarm"] and measures["adjusted"] <= alpha:
        state = "differs a little"
    kind = {"drift": "bad", "same": "good"}.get(state, "look")
    return {"name": title(name), "state": state, "kind": kind} | {
        "measures": measures,
        "test": TESTS[measures["test"]],
    }


def title(name: str) -> str:
    """Returns a feature's name as a page shows it."""
    words = {"embedding_mmd": "embedding, any change", "embedding_shift": "embedding, its mean"}
    return words.get(name, name.replace("_", " "))


def _histograms(reference, slot, window):
    """Returns the bars of each feature that alarms, else of none."""
    charts = []
    for name, feature in reference.features.items():
        if not window["features"][name].get("alarm"):
            continue
        before = feature.counts / feature.counts.sum()
        now = slot.window.counts[name] / slot.window.counts[name].sum()
        highest = max(before.max(), now.max())
        edges = [_short(edge) for edge in feature.edges]
        labels = [f"up to {edges[0]}", *(f"to {edge}" for edge in edges[1:]), f"over {edges[-1]}"]
        charts.append(
            {
                "name": title(name),
                "width": 12 * len(before),
                "range": f"{edges[0]} to {edges[-1]}",
                "bars": [
                    {
                        "x": 12 * i,
                        "before": f"{60 * before[i] / highest:.1f}",
                        "now": f"{60 * now[i] / highest:.1f}",
                        "label": f"{labels[i]}: {before[i]:.1%} before, {now[i]:.1%} now",
                    }
                    for i in range(len(before))
                ],
            }
        )
    return charts


def _short(number):
    """Returns a number in three digits; what is nearly 0, such as the edge just below it, as 0."""
    return f"{number:.3g}" if abs(number) > 1e-6 else "0"


def _class_bars(changes):
    """Returns the classes that have changed most, with the widths of their bars in percent."""
    largest = max((max(change["expected"], change["share"]) for change in changes), default=1)
    return [
        change
        | {
            "before_width": f"{100 * change['expected'] / largest:.1f}",
            "now_width": f"{100 * change['share'] / largest:.1f}",
        }
        for change in changes[:CLASSES]
    ]


def _lines(windows):
    """Returns the history of each feature: points of an SVG of 600 x 60, the alarms apart."""
    lines = []
    for name in windows[-1]["features"]:
        values = [window["features"][name].get("effect") for window in windows]
        measured = [value for value in values if value is not None]
        if not measured:
            continue
        highest = max([*measured, 1e-9])
        step = 588 / max(len(values) - 1, 1)
        points = [
            {
                "x": f"{6 + step * i:.1f}",
                "y": f"{56 - 52 * value / highest:.1f}",
                "alarm": windows[i]["features"][name].get("alarm", False),
                "label": f"{windows[i]['start']}: {value:.3g}",
            }
            for i, value in enumerate(values)
            if value is not None
        ]
        alarms = sum(point["alarm"] for point in points)
        lines.append(
            {"name": title(name), "points": points, "alarms": alarms, "highest": f"{highest:.3g}"}
        )
    return lines


def _cards(analysis, slot, names):
    """Returns cards of kept images, the strangest by some features first."""
    ratios = {name: _log_ratio(analysis.reference, slot, name) for name in names}
    edges = {name: analysis.reference.features[name].edges for name in names}

    def strangeness(kept):
        places = {name: np.flatnonzero(count(_value(kept, name), edges[name])) for name in names}
        return sum(ratios[name][place].sum() for name, place in places.items())

    cards = []
    for kept in sorted(slot.kept, key=strangeness, reverse=True):
        try:
            image = decode(analysis.log.image(kept.file))
        except UnreadableImage:  # deleted by age, or damaged
            continue
        shown = [f"{title(name)} {float(_value(kept, name)[0]):.3g}" for name in names]
        cards.append(
            {
                "image": picture(image),
                "label": analysis.classes[kept.label],
                "name": kept.file.rpartition("/")[2],
                "values": ", ".join(shown),
            }
        )
        if len(cards) == PICTURES:
            break
    return cards


def _value(kept, name):
    """Returns an image's value of a feature, float32 (1,)."""
    place = NAMES.index(name)
    return kept.values[place : place + 1]


def _log_ratio(reference, slot, name):
    """Returns (K,), how much more common each bin is in the window than in the reference, log."""
    now = distances.smoothed(slot.window.counts[name])
    return np.log(now / distances.smoothed(reference.features[name].counts))
