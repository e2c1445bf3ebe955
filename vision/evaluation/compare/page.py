"""The comparison as a page for the browser, with pictures of the images that flipped."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vision.config.load import from_dict
from vision.data.decode import UnreadableImage
from vision.data.pictures import data_uri, picture
from vision.data.splits import split_seed
from vision.errors import UserError, first_line
from vision.evaluation.compare.changes import change_text, table
from vision.evaluation.compare.comparison import Run
from vision.evaluation.data import reopen
from vision.evaluation.measures.intervals import LEAST_IMAGES
from vision.evaluation.report.figures import accuracies
from vision.support.page import render

SHOWN = 24  # images that flipped, each way
ROWS = 60  # of the table of classes: half of them losses, half gains
STATES = {"other": "good", "first": "bad", "": "look"}  # class of a verdict's line, by the better


def page(runs: Sequence[Run], comparison: Mapping[str, Any]) -> str:
    """Returns comparison.html.

    Args:
        runs: from `vision.evaluation.compare.comparison.align`.
        comparison: from `vision.evaluation.compare.comparison.compare`.
    """
    pictures, without = _open(runs)
    sections = [
        _section(pair, runs[0], run, pictures)
        for pair, run in zip(comparison["comparisons"], runs[1:], strict=True)
    ]
    return render(
        pathlib.Path(__file__).with_name("compare.html"),
        {
            "comparison": comparison,
            "table": table(comparison),
            "least_images": LEAST_IMAGES,
            "picture": data_uri(accuracies(comparison["runs"])),
            "sections": sections,
            "states": STATES,
            "without": without,
        },
    )


def _section(pair, first, other, pictures):
    """Returns what the page shows of one pair of runs."""
    lost, gained = flipped(first, other)
    rows = pair["per_class"]
    shown = rows if len(rows) <= ROWS else [*rows[: ROWS // 2], *rows[-ROWS // 2 :]]
    return pair | {
        "rows": [row | {"change": change_text(row, True)} for row in shown],
        "hidden": len(rows) - len(shown),
        "lost": [_card(first, other, i, pictures) for i in lost[:SHOWN]],
        "gained": [_card(first, other, i, pictures) for i in gained[:SHOWN]],
    }


def flipped(first: Run, other: Run) -> tuple[np.ndarray, np.ndarray]:
    """Returns (lost, gained): the images that only `first`, and that only `other` gets right.

    The most confident mistakes come first.
    """
    a = first.columns["correct"]
    b = other.columns["correct"]

    def by_confidence(rows, run):
        return rows[np.argsort(-run.columns["confidence"][rows], kind="stable")]

    lost = by_confidence(np.flatnonzero(a & ~b), other)
    gained = by_confidence(np.flatnonzero(~a & b), first)
    return lost, gained


def _card(first, other, i, pictures):
    """Returns what the page shows of an image, by its position."""
    name = first.columns["name"][i]
    return {
        "name": name,
        "short": name.rpartition("/")[2] or name,
        "label": first.columns["label"][i],
        "predictions": [
            {
                "title": run.title,
                "predicted": run.columns["predicted"][i],
                "confidence": float(run.columns["confidence"][i]),
            }
            for run in (first, other)
        ],
        "picture": pictures(i),
    }


def _open(runs: Sequence[Run]) -> tuple[Callable[[int], str], str]:
    """Returns (pictures, reason).

    Returns:
        pictures: function of an image's position that returns its data URI, or "".
        reason: why there are no pictures, or "".
    """
    reasons = []
    for run in runs:
        try:
            source = _source(run)
            return functools.partial(_picture, source, _places(source, run.columns)), ""
        except (UserError, OSError) as error:
            reasons.append(first_line(error))
    return lambda i: "", reasons[0]


def _source(run):
    """Returns the split that a run was evaluated on; raises `UserError` if it is gone."""
    config = from_dict({"data": run.header["data"], "seed": run.header["seed"]})
    return reopen(config.data, split_seed(config), run.header["split"])


def _places(source, columns):
    """Returns each image's position in a source; raises `UserError` if it holds others by now."""
    rows = columns["row"].tolist()
    names = columns["name"].tolist()
    if rows[-1] < len(source) and all(
        source.name(row) == name for row, name in zip(rows, names, strict=True)
    ):
        return rows
    # a run with data.limit has only a part of the rows
    places = {source.name(i): i for i in range(len(source))}
    if len(places) < len(source) or not places.keys() >= set(names):
        raise UserError("the source no longer holds these images")
    return [places[name] for name in names]


def _picture(source, places, i):
    try:
        return picture(source[places[i]]["image"])
    except UnreadableImage:
        return ""
