"""The report on synthetic images: a page with the measures, and pictures beside real ones."""

import datetime
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.data.pictures import picture
from vision.support.files import replacing
from vision.support.page import render
from vision.synthesize.distances import nearest
from vision.synthesize.quality import Embedded, Images

SHOWN = 10  # images of each class
CLASSES = 50  # classes whose images are shown
TEMPLATE = pathlib.Path(__file__).with_name("report.html")


def write(
    path: pathlib.Path,
    record: Mapping[str, Any],
    real: tuple[Any, Embedded],
    made: tuple[Images, Embedded],
) -> None:
    """Writes the page.

    Args:
        path: where to.
        record: the contents of synthesis.json.
        real: (the dataset of the training split, its embedding).
        made: (the generated images, their embedding).
    """
    context = {
        "record": record,
        "date": datetime.date.today().isoformat(),
        "sections": list(_sections(list(record["real"]), real, made)),
        "few": SHOWN,
        "hidden": max(0, int((np.bincount(made[1].labels) > 0).sum()) - CLASSES),
    }
    with replacing(path) as file:
        file.write(render(TEMPLATE, context))


def _sections(classes, real, made):
    """Yields a class's name and cards: synthetic images beside their nearest real ones."""
    dataset, real_embedded = real
    images, made_embedded = made
    for label in np.unique(made_embedded.labels)[:CLASSES]:
        shown = np.flatnonzero(made_embedded.labels == label)[:SHOWN]
        neighbors, distances = nearest(made_embedded.embeddings[shown], real_embedded.embeddings)
        cards = []
        for place, row, distance in zip(
            shown, real_embedded.rows[neighbors], distances, strict=True
        ):
            row = int(row)
            cards.append(
                {
                    "made": picture(images.image(int(made_embedded.rows[place]))),
                    "real": picture(dataset.image(row)),
                    "name": dataset.source.name(row),
                    "label": classes[dataset.source.labels[row]],
                    "distance": f"{distance:.3g}",
                }
            )
        yield {"name": classes[label], "cards": cards}
