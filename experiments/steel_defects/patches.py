"""Patches of 64 x 64 pixels from annotated pictures of steel, with and without a defect.

    WORKDIR/patches/lab.csv        to train, validate and test on: path, label, split, picture
    WORKDIR/patches/before/CLASS/  what the camera sees first
    WORKDIR/patches/later/CLASS/   what it sees after a lamp has failed
    WORKDIR/patches/tests/CLASS/   the same light, others, on which a new model is judged

A patch with a defect lies at least half inside a box, or the box inside it; a patch without one
touches no box. All patches of a picture are in the same part, and in the same split.
"""

import collections
import csv
import dataclasses
import pathlib
import tarfile
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from experiments.circle.data import relight
from vision.data.untrusted_xml import parse_xml
from vision.errors import UserError

SIDE = 64  # pixels of a patch
STEP = 8  # between the places that are tried
COVERED = 0.5  # share of a patch, or of a box, that makes a defect
GOOD = "no_defect"
SPLITS = {"train": 0.7, "val": 0.2, "test": 0.1}
# Shares of the pictures of each class; the laboratory's are divided 7 : 2 : 1.
PARTS = {"lab": 0.6, "before": 0.1, "later": 0.15, "tests": 0.15}
DARK = ("later", "tests")
FOLDERS = ("before", "later", "tests")


@dataclasses.dataclass(frozen=True)
class Picture:
    """An annotated picture.

    Attributes:
        name: of its file, without the ending.
        label: the class that its name begins with.
        pixels: uint8 (H, W).
        boxes: {class: int (N, 4)}, left, top, right, bottom, between pixels.
    """

    name: str
    label: str
    pixels: np.ndarray
    boxes: dict[str, np.ndarray]


def extract(tar: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Extracts the annotations and the images of neu_det.tar, unless that is done.

    Returns:
        the folder that a source voc:FOLDER names.

    Raises:
        UserError: there is no such file.
    """
    if not tar.is_file():
        raise UserError(f"there is no {tar}: give neu_det.tar")
    if not folder.is_dir():
        hidden = folder.with_name(f".{folder.name}")
        with tarfile.open(tar) as archive:
            archive.extractall(hidden, filter="data")
        hidden.rename(folder)
    return folder / "neu_det"


def read_pictures(folder: pathlib.Path) -> Iterator[Picture]:
    """Yields all pictures, sorted by name."""
    for file in sorted((folder / "annotations").glob("*.xml")):
        boxes = collections.defaultdict(list)
        for element in parse_xml(file.read_bytes()).iterfind("object"):
            box = element.find("bndbox")
            left, top, right, bottom = (
                int(float(box.findtext(side))) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            boxes[element.findtext("name")].append((left - 1, top - 1, right, bottom))
        image = folder / "images" / f"{file.stem}.jpg"
        pixels = cv2.imread(str(image), cv2.IMREAD_GRAYSCALE)
        arrays = {label: np.array(corners) for label, corners in boxes.items()}
        yield Picture(file.stem, file.stem.rpartition("_")[0], pixels, arrays)


def write_patches(folder: pathlib.Path, out: pathlib.Path, most: int) -> dict[str, int]:
    """Cuts the patches and writes them, unless that is done.

    Args:
        folder: from `extract`.
        out: the directory to write.
        most: pictures of each class at most.

    Returns:
        {part: number of patches}.
    """
    if not out.is_dir():
        hidden = out.with_name(f".{out.name}")
        rows = []
        for part, split, picture in divided_pictures(read_pictures(folder), most):
            for number, (label, pixels) in enumerate(cut(picture)):
                name = f"{picture.name}-{number}.png"
                place = pathlib.Path(split or part, label, name)
                (hidden / place).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(hidden / place), relight(pixels) if part in DARK else pixels)
                if split:
                    rows.append((place.as_posix(), label, split, picture.name))
        with (hidden / "lab.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("path", "label", "split", "picture"))
            writer.writerows(rows)
        hidden.rename(out)
    counts = {split: len(list((out / split).rglob("*.png"))) for split in SPLITS}
    return counts | {part: len(list((out / part).rglob("*.png"))) for part in FOLDERS}


def cut(picture: Picture) -> list[tuple[str, np.ndarray]]:
    """Returns (class, uint8 (SIDE, SIDE)) of a picture: a patch with a defect, and one without."""
    random = np.random.default_rng(int(picture.name.rpartition("_")[2]))
    kinds = ((picture.label, defect_places(picture)), (GOOD, free_places(picture)))
    return [
        (label, picture.pixels[top : top + SIDE, left : left + SIDE])
        for label, places in kinds
        for top, left in _draw(random, places) * STEP
    ]


def defect_places(picture: Picture) -> np.ndarray:
    """Returns where windows show a defect of the picture's class and no other, int (N, 2)."""
    covered = {label: _covered(picture, boxes) for label, boxes in picture.boxes.items()}
    if picture.label not in covered:
        return np.zeros((0, 2), int)
    others = [share for label, share in covered.items() if label != picture.label]
    return np.argwhere((covered[picture.label] >= COVERED) & (np.max(others, 0, initial=0) == 0))


def free_places(picture: Picture) -> np.ndarray:
    """Returns where windows touch no box, int (N, 2): top and left in units of `STEP`."""
    covered = [_covered(picture, boxes) for boxes in picture.boxes.values()]
    return np.argwhere(np.max(covered, 0) == 0) if covered else np.zeros((0, 2), int)


def _draw(random: np.random.Generator, places: np.ndarray) -> np.ndarray:
    """Returns at most one of the places, int (N, 2)."""
    return places[random.integers(len(places))][None] if len(places) else places


def _covered(picture: Picture, boxes: np.ndarray) -> np.ndarray:
    """Returns how far a window at each place and the boxes cover each other, float (Y, X).

    The share of the window that is in boxes, or the greatest share of a box that is in the window.
    """
    height, width = picture.pixels.shape
    tops = np.arange(0, height - SIDE + 1, STEP)[:, None]
    lefts = np.arange(0, width - SIDE + 1, STEP)[None]
    mask = np.zeros((height + 1, width + 1))
    shares = np.zeros((tops.size, lefts.size))
    for left, top, right, bottom in boxes:
        mask[top + 1 : bottom + 1, left + 1 : right + 1] = 1
        wide = np.minimum(lefts + SIDE, right) - np.maximum(lefts, left)
        high = np.minimum(tops + SIDE, bottom) - np.maximum(tops, top)
        inside = np.maximum(wide, 0) * np.maximum(high, 0)
        shares = np.maximum(shares, inside / ((right - left) * (bottom - top)))
    sums = mask.cumsum(0).cumsum(1)
    corners = (
        sums[tops + SIDE, lefts + SIDE]
        - sums[tops, lefts + SIDE]
        - sums[tops + SIDE, lefts]
        + sums[tops, lefts]
    )
    return np.maximum(shares, corners / SIDE**2)


def divided_pictures(pictures: Iterator[Picture], most: int) -> Iterator[tuple[str, str, Picture]]:
    """Yields (part, split, picture); the split is "" outside the laboratory.

    Args:
        pictures: from `read_pictures`.
        most: pictures of each class at most.
    """
    by_class = collections.defaultdict(list)
    for picture in pictures:
        by_class[picture.label].append(picture)
    for label in sorted(by_class):
        order = np.random.default_rng(0).permutation(len(by_class[label]))[:most]
        ours = [by_class[label][row] for row in order]
        for part, pictures_of_part in _shares(ours, PARTS):
            if part != "lab":
                yield from ((part, "", picture) for picture in pictures_of_part)
                continue
            for split, pictures_of_split in _shares(pictures_of_part, SPLITS):
                yield from ((part, split, picture) for picture in pictures_of_split)


def _shares(
    pictures: Sequence[Picture], shares: dict[str, float]
) -> Iterator[tuple[str, Sequence[Picture]]]:
    """Yields (name, pictures) of consecutive shares."""
    ends = np.round(np.cumsum(list(shares.values())) * len(pictures)).astype(int)
    starts = [0, *ends[:-1]]
    for name, start, end in zip(shares, starts, ends, strict=True):
        yield name, pictures[start:end]
