"""The comparison as one page that a person reads in a browser, with pictures of the images that
flipped."""

import functools
import pathlib

import numpy as np

from vision.config.load import from_dict
from vision.data.decode import UnreadableImage
from vision.data.pictures import picture
from vision.errors import UserError
from vision.evaluation.compare.comparison import change_of, table
from vision.evaluation.data import reopen
from vision.support.page import render

SHOWN = 24  # images that flipped, each way
ROWS = 60  # of the table of classes: half of them losses, half gains


def page(runs, found):
    """Returns comparison.html.

    Args:
        runs: from `vision.evaluation.compare.comparison.align`.
        found: from `vision.evaluation.compare.comparison.compare`.
    """
    pictures, without = _open(runs)
    states = {"other": "good", "first": "bad", "": "look"}
    sections = []
    for pair, run in zip(found["comparisons"], runs[1:], strict=True):
        lost, gained = (
            [_card(runs[0], run, i, pictures) for i in way[:SHOWN]] for way in flipped(runs[0], run)
        )
        rows = pair["per_class"]
        kept = rows if len(rows) <= ROWS else [*rows[: ROWS // 2], *rows[-ROWS // 2 :]]
        rows = [one | {"change": change_of(one, True)} for one in kept]
        sections.append(
            pair
            | {
                "rows": rows,
                "hidden": len(pair["per_class"]) - len(kept),
                "lost": lost,
                "gained": gained,
            }
        )
    return render(
        pathlib.Path(__file__).with_name("compare.html"),
        {
            "found": found,
            "table": table(found),
            "sections": sections,
            "states": states,
            "without": without,
        },
    )


def flipped(first, other):
    """Returns (lost, gained): the images that only `first`, only `other` gets right, the surest
    mistakes first."""
    a = first.columns["correct"]
    b = other.columns["correct"]
    ways = (np.flatnonzero(a & ~b), other), (np.flatnonzero(~a & b), first)
    return tuple(
        rows[np.argsort(-run.columns["confidence"][rows], kind="stable")] for rows, run in ways
    )


def _card(first, other, i, pictures):
    said = [
        {
            "title": run.title,
            "predicted": run.columns["predicted"][i],
            "confidence": float(run.columns["confidence"][i]),
        }
        for run in (first, other)
    ]
    name = first.columns["name"][i]
    known = {
        "name": name,
        "short": name.rpartition("/")[2] or name,
        "label": first.columns["label"][i],
    }
    return known | {"said": said, "picture": pictures(i)}


def _open(runs):
    """Returns (a function of an image's position to its data URI, why there are none or "")."""
    reasons = []
    for run in runs:
        try:
            source = _source(run)
            return functools.partial(_picture, source, _places(source, run.columns)), ""
        except (UserError, OSError) as error:
            reasons.append(str(error).splitlines()[0])
    return lambda i: "", reasons[0]


def _places(source, columns):
    """Returns where in a source each image is; raises `UserError` where it holds others by now."""
    rows = columns["row"].tolist()
    names = columns["name"].tolist()
    if rows[-1] < len(source) and all(
        source.name(row) == name for row, name in zip(rows, names, strict=True)
    ):
        return rows
    # a run with data.limit has a part of the rows
    places = {source.name(i): i for i in range(len(source))}
    if len(places) < len(source) or not places.keys() >= set(names):
        raise UserError("the source does not hold these images any more")
    return [places[name] for name in names]


def _source(run):
    """Returns the split that a run was evaluated on; raises `UserError` where it is gone."""
    config = from_dict({"data": run.known["data"], "seed": run.known["seed"]})
    return reopen(config.data, config.seed, run.known["split"])


def _picture(source, places, i):
    try:
        return picture(source[places[i]]["image"])
    except UnreadableImage:
        return ""
