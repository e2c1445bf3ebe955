"""Copies of images with what a model thinks of them, for looking through a folder."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vision.data.decode import UnreadableImage, decode, to_channels
from vision.data.lettering import fitted, font
from vision.support import disk
from vision.support.files import replacing
from vision.support.lock import locked
from vision.support.outputs import place_below

WIDTH = 480  # pixels of a picture
SHOWN = 5  # classes at most
ROW = 26  # pixels of a class's line
EDGE = 8
NAMES = 190  # pixels of the names
NUMBERS = 80  # pixels of the probabilities
SUFFIX = ".jpg"
INK = (31, 35, 40)
DIM = (89, 99, 110)
BLUE = (9, 105, 218)
PALE = (175, 184, 193)
GROUND = (240, 241, 243)

Ranking = Sequence[tuple[str, float]]


@contextlib.contextmanager
def annotating(directory: str, bits: int = 0, caption: str = "") -> Iterator[Callable[..., None]]:
    """Yields a function that writes an annotated copy of an image into a directory.

    Its arguments are the file and what `annotated` takes, but for the caption. The copy is
    where `vision.support.outputs.place_below` says, and may raise what is below.

    Args:
        directory: it is made if it is missing; "" for none, and the function then does nothing.
        bits: see `vision.data.decode.decode`.
        caption: see `annotated`.

    Raises:
        UserError, RunError: it cannot be written to.
    """
    if not directory:
        yield lambda file, prediction, heat=None: None
        return
    with locked(directory, "--pictures") as folder:

        def write(file: str, prediction: Ranking, heat: np.ndarray | None = None) -> None:
            with contextlib.suppress(UnreadableImage):  # removed meanwhile
                picture = annotated(decode(file, bits=bits), prediction, heat, caption)
                try:
                    save(folder / place_below(file, SUFFIX), picture)
                except OSError as error:
                    raise disk.failed(f"--pictures {directory}", error) from error

        yield write


def save(path: pathlib.Path, picture: Image.Image) -> None:
    """Writes a picture as a JPEG file, in full or not at all, into a folder that may be missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, binary=True) as file:
        picture.save(file, "JPEG", quality=90)


def annotated(
    image: np.ndarray,
    prediction: Ranking,
    heat: np.ndarray | None = None,
    caption: str = "",
) -> Image.Image:
    """Returns an image with its most probable classes below it, each with a bar; RGB.

    Args:
        image: uint8 (H, W, 1 or 3).
        prediction: [(class, probability)], the most probable first.
        heat: uint8 (H', W', 3), a picture of where the first class is seen
            (`vision.data.pictures.overlay`), to show at its right; None for none.
        caption: what `heat` shows, in words, to stand below it.
    """
    columns = [_scaled(to_channels(image, 3))]
    if heat is not None:
        columns.append(_scaled(heat))
    height = max(len(column) for column in columns)
    shown = prediction[:SHOWN]
    size = (len(columns) * WIDTH, height + len(shown) * ROW + 2 * EDGE)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, size[0], height - 1), GROUND)
    for place, column in enumerate(columns):
        left = place * WIDTH + (WIDTH - column.shape[1]) // 2
        picture.paste(Image.fromarray(column), (left, (height - len(column)) // 2))
    for place, (name, probability) in enumerate(shown):
        _draw_class(pen, height + EDGE + place * ROW, name, probability, place == 0)
    if heat is not None:
        pen.text((WIDTH + EDGE, height + EDGE + 3), caption, DIM, font(13))
    return picture


def _scaled(image):
    """Returns an image that fits into a square; a small one is enlarged by a whole number."""
    height, width = image.shape[:2]
    scale = WIDTH / max(height, width)
    if scale >= 1:
        scale = float(int(scale))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(image, size, interpolation=interpolation)


def _draw_class(pen, top, name, probability, is_first):
    """Draws the line of a class: its name, a bar, its probability."""
    letters = font(15, is_first)
    ink = INK if is_first else DIM
    pen.text((EDGE, top + 3), fitted(name, letters, NAMES - EDGE), ink, letters)
    left = EDGE + NAMES
    right = WIDTH - EDGE - NUMBERS
    pen.rectangle((left, top + 5, right, top + ROW - 6), GROUND)
    end = left + round((right - left) * min(1.0, max(0.0, probability)))
    pen.rectangle((left, top + 5, end, top + ROW - 6), BLUE if is_first else PALE)
    text = f"{100 * probability:.1f} %"
    pen.text((WIDTH - EDGE - letters.getlength(text), top + 3), text, ink, letters)
