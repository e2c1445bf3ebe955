"""The report on synthetic images: a page with the pairs that may be copies, and the measures."""

import datetime
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vision.data.pictures import picture
from vision.support.files import replacing
from vision.support.page import render
from vision.synthesize.copies import Matches

OVERALL = 12  # nearest pairs of all classes
NEAREST = 6  # nearest pairs of each class
RANDOM = 3  # further images of each class, drawn at random
CLASSES = 50  # classes whose pairs are shown
TEMPLATE = pathlib.Path(__file__).with_name("report.html")


def write(path: pathlib.Path, table: str, record: Mapping[str, Any], matches: Matches) -> None:
    """Writes the page.

    Args:
        path: where to.
        table: the file beside it with all pairs.
        record: the contents of synthesis.json.
        matches: the images and their nearest real ones.
    """
    distances = matches.pairs.distances
    context = {
        "record": record,
        "date": datetime.date.today().isoformat(),
        "table": table,
        "nearest": _cards(matches, choose_nearest(matches, np.arange(len(distances)), OVERALL)),
        "sections": list(_sections(matches, record["seed"])),
        "random": RANDOM,
        "hidden": max(0, len(record["copies"]["classes"]) - CLASSES),
    }
    with replacing(path) as file:
        file.write(render(TEMPLATE, context))


def choose_nearest(matches: Matches, places: np.ndarray, most: int) -> np.ndarray:
    """Returns which of some images are nearest to a real one, int64, the nearest first.

    Of several images of the same real one, it is only the nearest: a copy that was drawn a hundred
    times must not hide the others.

    Args:
        matches: the images.
        places: int64 (N,), those to choose from.
        most: at most so many.
    """
    ordered = places[np.argsort(matches.pairs.distances[places], kind="stable")]
    _, first = np.unique(matches.pairs.places[ordered], return_index=True)
    return ordered[np.sort(first)[:most]]


def _sections(matches: Matches, seed: int) -> Iterator[dict[str, Any]]:
    """Yields the pairs of the classes that have the nearest ones, in the classes' order."""
    labels = matches.made.labels
    present = np.unique(labels)
    smallest = [matches.pairs.distances[labels == label].min() for label in present]
    random = np.random.default_rng(seed)
    for label in np.sort(present[np.argsort(smallest, kind="stable")[:CLASSES]]):
        places = np.flatnonzero(labels == label)
        chosen = choose_nearest(matches, places, NEAREST)
        others = np.setdiff1d(places, chosen)
        drawn = random.choice(others, min(RANDOM, len(others)), replace=False)
        yield {
            "name": matches.classes[label],
            "nearest": _cards(matches, chosen),
            "random": _cards(matches, drawn),
        }


def _cards(matches, places):
    """Returns what the page says of pairs, with their pictures."""
    counts = np.bincount(matches.pairs.places)
    cards = []
    for place in places:
        made, real = matches.images(place)
        cards.append(
            matches.row(place)
            | {
                "made_picture": picture(made),
                "real_picture": picture(real),
                "is_nearer": bool(matches.pairs.is_nearer[place]),
                "count": int(counts[matches.pairs.places[place]]),
            }
        )
    return cards
