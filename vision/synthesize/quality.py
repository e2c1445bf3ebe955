"""Embeds real and generated images, and judges the generated ones: overall and class by class."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from vision.data.decode import UnreadableImage
from vision.errors import UserError
from vision.inference import Classifier
from vision.support.progress import Progress
from vision.synthesize.distances import (
    NEIGHBORS,
    frechet,
    kernel_distance,
    precision_and_recall,
)

BATCH = 256
MOST = 5_000  # images of a kind that are compared with each other
NOTHING = {"frechet": None, "kernel": None, "precision": None, "recall": None}


class Images(Protocol):
    """Images by number: a `vision.data.loading.dataset.Dataset`, or those that were drawn."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> np.ndarray: ...


class Embedded(NamedTuple):
    """What images look like to a network.

    Attributes:
        embeddings: float32 (N, D).
        labels: int64 (N,).
        rows: int64 (N,), the number of each among the images; unreadable ones are left out.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    rows: np.ndarray

    def take(self, chosen: np.ndarray) -> "Embedded":
        """Returns some of them."""
        return Embedded(*(column[chosen] for column in self))

    def spread(self, most: int) -> "Embedded":
        """Returns at most so many of them, evenly spread."""
        return self.take(_spread(np.arange(len(self.rows)), most))


def embed(classifier: Classifier, images: Images, labels: np.ndarray, title: str) -> Embedded:
    """Embeds all readable images, prepared as a classifier takes them.

    Args:
        classifier: whose embedding it is.
        images: N images.
        labels: int (N,).
        title: what they are, for the progress and for messages.

    Raises:
        UserError: none of them can be read.
    """
    rows: list[int] = []
    parts: list[np.ndarray] = []
    batch: list[np.ndarray] = []

    def flush() -> None:
        if batch:
            padded = np.stack(batch + batch[:1] * (BATCH - len(batch)))
            parts.append(classifier(padded)[1][: len(batch)])
            batch.clear()

    with Progress(f"embedding {title}", len(images), "images") as work:
        for row in work.over(range(len(images))):
            try:
                batch.append(classifier.prepare(images.image(row)))
            except UnreadableImage:
                continue
            rows.append(row)
            if len(batch) == BATCH:
                flush()
        flush()
    if not rows:
        raise UserError(f"none of the {len(images):,} images of '{title}' can be read")
    chosen = np.array(rows, np.int64)
    return Embedded(np.concatenate(parts), np.asarray(labels, np.int64)[chosen], chosen)


def judge(real: Mapping[str, Embedded], made: Embedded, classes: Sequence[str]) -> dict[str, Any]:
    """Measures how far generated images are from real training images.

    Args:
        real: {"train", "val"}; "val" may be missing.
        made: the generated images.
        classes: C class names.

    Returns:
        "overall": Fréchet and kernel distance, precision and recall, from equally many real and
        generated images of each class, and their number; "validation": the same of the real images
        of the validation split, which says how good a number can get, None if there is no such
        split; "classes": {name: the same}, whose measures are None if there are too few images.
    """
    train = real["train"]
    overall = _compare(*_matched(train, made, len(classes)))
    validation = None
    if "val" in real:
        validation = _compare(*_matched(train, real["val"], len(classes)))
    each = {}
    for label in np.unique(made.labels):
        parts = [e.take(e.labels == label).spread(MOST) for e in (train, made)]
        each[classes[label]] = _compare(*parts)
    return {"overall": overall, "validation": validation, "classes": each}


def _compare(real: Embedded, made: Embedded) -> dict[str, Any]:
    sizes = {"real": len(real.rows), "compared": len(made.rows)}
    if min(sizes.values()) <= NEIGHBORS:
        return sizes | NOTHING
    pair = (real.embeddings, made.embeddings)
    precision, recall = precision_and_recall(*pair)
    return sizes | {
        "frechet": frechet(*pair),
        "kernel": kernel_distance(*pair),
        "precision": precision,
        "recall": recall,
    }


def _matched(first: Embedded, second: Embedded, classes: int) -> tuple[Embedded, Embedded]:
    """Returns equally many images of each class from both, so that only their looks differ."""
    counts = [np.bincount(e.labels, minlength=classes) for e in (first, second)]
    shared = np.minimum(*counts)
    present = max(int(np.count_nonzero(shared)), 1)
    shared = np.minimum(shared, max(MOST // present, 1))
    return (_first_of_each(first, shared), _first_of_each(second, shared))


def _first_of_each(embedded: Embedded, counts: np.ndarray) -> Embedded:
    """Returns a given number of images of each class, spread over them."""
    chosen = [
        _spread(np.flatnonzero(embedded.labels == label), count)
        for label, count in enumerate(counts)
    ]
    return embedded.take(np.sort(np.concatenate(chosen)))


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    if count >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
