"""Images for the circle: what a model learns from, what it is asked, and under which light.

    photos/CLASS/   the model's own: to train, to validate, to test
    before/CLASS/   what it is asked first, under the same light
    later/CLASS/    what it is asked after the light has changed
    tests/CLASS/    others under the changed light, on which the new model is judged

No image is in two of them. All are PNG files.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import cv2
import numpy as np

from experiments.neu import sort_by_class
from vision.errors import UserError

PARTS = ("photos", "before", "later", "tests")
RELIT = ("later", "tests")
BRIGHT = 0.7  # share of the light that is left on the left side of an image
DIM = 0.2  # and on its right side


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, and a model for it.

    Attributes:
        name: of the model.
        read: a function of a place that returns {class: images, uint8 (H, W)}.
        counts: images of each class for each of `PARTS`; the last gets what is left.
        side: of the model's images, pixels.
        variant: of the model, a CNN.
        steps: of the first training.
        more: steps of the incremental one.
        labels: images to label.
    """

    name: str
    read: Callable[[pathlib.Path], dict[str, list[np.ndarray]]]
    counts: tuple[int, int, int]
    side: int
    variant: str
    steps: int
    more: int
    labels: int


def read_digits(place: pathlib.Path) -> dict[str, list[np.ndarray]]:
    """Returns scikit-learn's digits at 16 px; the place is not used."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    by_class: dict[str, list[np.ndarray]] = {}
    for image, label in zip(digits.images, digits.target, strict=True):
        pixels = np.round(image * (255 / 16)).astype(np.uint8)
        larger = cv2.resize(pixels, (16, 16), interpolation=cv2.INTER_LINEAR)
        by_class.setdefault(str(label), []).append(larger)
    return by_class


def read_neu(place: pathlib.Path) -> dict[str, list[np.ndarray]]:
    """Returns NEU's steel defects of 200 px: of neu_det.tar, or of a folder that has CLASS/*.jpg.

    Raises:
        UserError: there is no such place.
    """
    if not place.exists():
        raise UserError(f"there is no {place}: give neu_det.tar")
    folder = place if place.is_dir() else sort_by_class(place, place.with_suffix(""))
    return {
        part.name: [
            cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in sorted(part.glob("*.jpg"))
        ]
        for part in sorted(folder.iterdir())
        if part.is_dir()
    }


DATA = {
    "digits": Data("digits", read_digits, (90, 15, 40), 16, "small", 200, 200, 200),
    "neu": Data("neu", read_neu, (150, 25, 60), 64, "small", 700, 500, 180),
}


def prepare(data: Data, place: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the parts of the data into a folder, unless it exists.

    Raises:
        UserError: there are too few images.
    """
    if folder.is_dir():
        return
    hidden = folder.with_name(f".{folder.name}")
    ends = np.cumsum(data.counts)
    for label, images in data.read(place).items():
        if len(images) <= ends[-1]:
            raise UserError(
                f"{place}: {label} has {len(images)} images, more than {ends[-1]} are needed"
            )
        order = np.random.default_rng(0).permutation(len(images))
        for part, rows in zip(PARTS, np.split(order, ends), strict=True):
            (hidden / part / label).mkdir(parents=True, exist_ok=True)
            for row in rows:
                image = relight(images[row]) if part in RELIT else images[row]
                cv2.imwrite(str(hidden / part / label / f"{row:04}.png"), image)
    hidden.rename(folder)


def relight(image: np.ndarray) -> np.ndarray:
    """Returns an image, uint8 (H, W), as one dim lamp on its left would show it."""
    light = np.linspace(BRIGHT, DIM, image.shape[1])
    return np.round(image * light).astype(np.uint8)


def truth(folder: pathlib.Path) -> dict[bytes, str]:
    """Returns {an image file's bytes: its class} of all images in FOLDER/CLASS/."""
    return {file.read_bytes(): file.parent.name for file in sorted(folder.rglob("*.png"))}
