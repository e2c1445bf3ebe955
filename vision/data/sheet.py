"""A contact sheet: some images of each class in a row, and as the training augments them."""

import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from vision.data.decode import UnreadableImage, resize_crop, to_channels
from vision.data.image_shape import image_shape
from vision.data.lettering import fitted, font
from vision.data.sample import look
from vision.data.sources import Source
from vision.errors import UserError
from vision.support.files import replacing

TILE = 112  # pixels
GAP = 6
NAMES = 190  # pixels of the column of names
MOST_CLASSES = 200
SAMPLE = 64  # images from which the model's image size follows, if the config leaves it open
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
LARGEST = {"JPEG": 65_500, "WEBP": 16_383}  # pixels of a side that the formats' libraries write
INK = (31, 35, 40)
DIM = (89, 99, 110)
PAPER = (255, 255, 255)
EMPTY = (240, 241, 243)


def draw_sheet(source: Source, per_class: int, config: ConfigDict | None = None) -> Image.Image:
    """Returns the sheet, RGB: the images of a class are spread evenly over those that it has.

    Args:
        source: the images.
        per_class: images of each class.
        config: a run's config, with which a second row of each class shows the same images as its
            training augments them; mixup and CutMix, which would join classes, are left out.

    Raises:
        UserError: the config does not fit the images.
    """
    labels = range(min(len(source.classes), MOST_CLASSES))
    images = [
        [_read(source, i) for i in _spread(np.flatnonzero(source.labels == label), per_class)]
        for label in labels
    ]
    lines = [images] if config is None else [images, _augmented(source, config, images)]
    height = len(lines) * (TILE + GAP) + GAP
    width = NAMES + max(map(len, images), default=0) * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, max(1, len(images)) * height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    counts = np.bincount(source.labels, minlength=len(source.classes))
    for label in labels:
        top = GAP + label * height
        _write_name(pen, top, source.classes[label], int(counts[label]))
        if config is not None:
            pen.text((GAP, top + TILE + GAP + 4), "as augmented in training", DIM, font(13))
        for line, rows in enumerate(lines):
            _paste_row(sheet, pen, top + line * (TILE + GAP), rows[label])
    return sheet


def write_sheet(path: pathlib.Path | str, sheet: Image.Image) -> None:
    """Writes a sheet as a picture, whose format follows from the file's name.

    Raises:
        UserError: the name ends in none of `FORMATS`, or the sheet is too large for its format.
        OSError: it cannot be written.
    """
    kind = check_name(path)
    if kind in LARGEST and max(sheet.size) > LARGEST[kind]:
        raise UserError(
            f"--out {path}: the sheet has {sheet.width:,} x {sheet.height:,} pixels, and {kind} "
            f"has at most {LARGEST[kind]:,} per side: give a name that ends in .png"
        )
    with replacing(path, binary=True) as file:
        sheet.save(file, kind, quality=90)


def check_name(path: pathlib.Path | str) -> str:
    """Returns the format that a picture's name means; raises `UserError` for another one."""
    kind = FORMATS.get(pathlib.Path(path).suffix.lower())
    if kind is None:
        raise UserError(f"--out {path}: the name must end in {', '.join(FORMATS)}")
    return kind


def _spread(indices: np.ndarray, count: int) -> list[int]:
    """Returns at most `count` of some indices, evenly spaced."""
    if not len(indices):
        return []
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)
    return indices[places].tolist()


def _read(source: Source, index: int) -> np.ndarray | None:
    try:
        return source[index]["image"]
    except UnreadableImage:
        return None


def _augmented(
    source: Source, config: ConfigDict, rows: Sequence[Sequence[np.ndarray | None]]
) -> list[list[np.ndarray | None]]:
    """Returns rows of the same images as a training of the config may see them."""
    from vision.data.pipeline import resize_of  # imports JAX

    c = config.data
    size, channels = image_shape(c, source, look(source, SAMPLE))
    random = np.random.default_rng(config.seed)
    readable = [image for row in rows for image in row if image is not None]
    prepared = [
        resize_crop(
            to_channels(image, channels),
            size,
            rng=random,
            area=tuple(c.random_crop_area),
            **resize_of(c),
        )
        for image in readable
    ]
    changed = iter(_augment(config, np.stack(prepared)) if prepared else ())
    return [[None if image is None else next(changed) for image in row] for row in rows]


def _augment(config: ConfigDict, images: np.ndarray) -> np.ndarray:
    """Returns images, uint8 (B, H, W, C), augmented as config.augment says."""
    import jax

    from vision.data.augment import augment

    policy = config.augment.copy_and_resolve_references()
    policy.mixup = 0.0
    policy.cutmix = 0.0
    count = len(images)
    flips = np.arange(count) % 2 == 1 if policy.flip_alternating else None
    key = jax.random.key(config.seed)
    labels = jax.numpy.zeros(count, np.int32)
    changed, _ = augment(policy, key, jax.numpy.asarray(images), labels, 1, flips=flips)
    return np.asarray(changed)


def _write_name(pen: ImageDraw.ImageDraw, top: int, name: str, count: int) -> None:
    width = NAMES - 2 * GAP
    pen.text((GAP, top + 4), fitted(name, font(16, True), width), INK, font(16, True))
    images = f"{count:,} image{'s' if count != 1 else ''}"
    pen.text((GAP, top + 28), images, DIM, font(13))


def _paste_row(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, top: int, images: Sequence[np.ndarray | None]
) -> None:
    for column, image in enumerate(images):
        _paste(sheet, pen, (NAMES + column * (TILE + GAP), top), image)


def _paste(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    image: np.ndarray | None,
) -> None:
    """Puts an image, in full, into a square; says so if there is none to show."""
    left, top = corner
    pen.rectangle((left, top, left + TILE - 1, top + TILE - 1), EMPTY)
    if image is None:
        pen.text((left + 12, top + TILE // 2 - 8), "unreadable", DIM, font(13))
        return
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    tile = cv2.resize(to_channels(image, 3), shape, interpolation=interpolation)
    sheet.paste(
        Image.fromarray(tile), (left + (TILE - shape[0]) // 2, top + (TILE - shape[1]) // 2)
    )
