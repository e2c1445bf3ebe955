"""Which generated images are near a real one: every image's nearest real image, and how near it is.

A distance alone does not say what near is, so each comes with that of the real image to its nearest
other real image. A generated image that is nearer than that is what Alaa et al. 2022
(arXiv:2102.08921) call not authentic. So are many real images that the generator has not seen: only
a share above theirs means something.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from vision.data.loading.dataset import Dataset
from vision.support.cells import Writer
from vision.support.files import replacing
from vision.support.progress import Progress
from vision.synthesize.distances import ROWS, nearest
from vision.synthesize.quality import Embedded, Images

QUERIES = 2_000  # real images of the validation split that are compared
COLUMNS = ("path", "label", "real", "real_label", "distance", "real_distance")


class Files(Images, Protocol):
    """Images in files, whose paths are `files`."""

    @property
    def files(self) -> Sequence[str]: ...


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The nearest real image of each of N images.

    Attributes:
        places: int64 (N,), where the real image is among the embedded ones.
        distances: float64 (N,), of the image and its real image.
        real_distances: float64 (N,), of the real image and its nearest other real image; infinite
            if there is no other.
    """

    places: np.ndarray
    distances: np.ndarray
    real_distances: np.ndarray

    @property
    def is_nearer(self) -> np.ndarray:
        """Whether an image is nearer to its real image than every other real one, bool (N,)."""
        return self.distances < self.real_distances

    def take(self, chosen: np.ndarray) -> "Pairs":
        """Returns some of them."""
        return Pairs(self.places[chosen], self.distances[chosen], self.real_distances[chosen])


def find_pairs(images: Embedded, real: Embedded, title: str) -> Pairs:
    """Returns the nearest real image of each image.

    Args:
        images: N images, none of which is a training image: the nearest neighbor's own distance
            would count the image itself.
        real: the real training images.
        title: of the images, for the progress.
    """
    references = np.asarray(real.embeddings, np.float64)
    title = f"nearest real images, {title}"
    places, distances = _search(images.embeddings, references, None, title)
    chosen, inverse = np.unique(places, return_inverse=True)
    _, others = _search(references[chosen], references, chosen, f"{title}: their neighbors")
    return Pairs(places, distances, others[inverse])


def _search(queries, references, own, title):
    places = []
    distances = []
    with Progress(title, len(queries), "images") as work:
        for start in range(0, len(queries), ROWS):
            block = slice(start, start + ROWS)
            part = nearest(queries[block], references, None if own is None else own[block])
            places.append(part[0])
            distances.append(part[1])
            work.advance(len(part[0]))
    return np.concatenate(places), np.concatenate(distances)


def describe(
    made: Pairs, labels: np.ndarray, validation: Pairs | None, classes: Sequence[str]
) -> dict[str, Any]:
    """Returns how near the images are.

    Args:
        made: of the generated images.
        labels: int (N,), their classes.
        validation: of real images that the generator has not seen; None if there are none.
        classes: C class names.

    Returns:
        "overall", "validation" and "classes", {name: ...}: "images"; "smallest" and "median"
        distance to the nearest training image; "real_median", of these training images and their
        nearest other one, None if there is no other; "nearer", the share of `Pairs.is_nearer`.
        "validation" is None if there are no such images.
    """
    return {
        "overall": _summarize(made),
        "validation": None if validation is None else _summarize(validation),
        "classes": {
            classes[label]: _summarize(made.take(labels == label)) for label in np.unique(labels)
        },
    }


def _summarize(pairs):
    real_median = float(np.median(pairs.real_distances))
    return {
        "images": len(pairs.distances),
        "smallest": float(pairs.distances.min()),
        "median": float(np.median(pairs.distances)),
        "real_median": real_median if np.isfinite(real_median) else None,
        "nearer": float(pairs.is_nearer.mean()),
    }


@dataclasses.dataclass(frozen=True)
class Matches:
    """Generated images with their nearest real ones, by place among the embedded generated images.

    Attributes:
        generated: the generated images.
        made: their embedding.
        dataset: the training split.
        real: its embedding.
        pairs: the nearest real image of each generated one.
        classes: C class names.
    """

    generated: Files
    made: Embedded
    dataset: Dataset
    real: Embedded
    pairs: Pairs
    classes: Sequence[str]

    def row(self, place: int) -> dict[str, Any]:
        """Returns {column: cell} of an image; a real distance is None if it is infinite."""
        label = int(self.made.labels[place])
        real_row = self._real_row(place)
        real_distance = float(self.pairs.real_distances[place])
        return {
            "path": self.generated.files[self.made.rows[place]],
            "label": self.classes[label],
            "real": self.dataset.source.name(real_row),
            "real_label": self.classes[self.dataset.source.labels[real_row]],
            "distance": float(self.pairs.distances[place]),
            "real_distance": real_distance if np.isfinite(real_distance) else None,
        }

    def images(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (generated image, its nearest real image), uint8 (H, W, C) each."""
        made = self.generated.image(int(self.made.rows[place]))
        return made, self.dataset.image(self._real_row(place))

    def _real_row(self, place):
        return int(self.real.rows[self.pairs.places[place]])

    def write(self, path: pathlib.Path) -> None:
        """Writes a table of all pairs, with the columns `COLUMNS`, the smallest distance first."""
        with replacing(path, newline="") as file:
            writer = Writer(file)
            writer.writerow(COLUMNS)
            for place in np.argsort(self.pairs.distances, kind="stable").tolist():
                row = self.row(place)
                row["distance"] = f"{row['distance']:.6g}"
                if row["real_distance"] is not None:
                    row["real_distance"] = f"{row['real_distance']:.6g}"
                writer.writerow(row[column] for column in COLUMNS)
