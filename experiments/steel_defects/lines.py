"""Pictures of a line-scan camera, put together from patches, so that every defect is known.

    WORKDIR/lines/NAME.png         gray, 4096 x 1024 pixels
    WORKDIR/lines/defects.csv      picture, label, left, top, width, height

The background of a picture is good steel of one kind: windows of annotated pictures that touch no
box, mirrored at random, brought to one brightness and faded into each other. Half of the pictures
have one to three defects of that kind, faded in at random places. NEU-DET has no such pictures;
these show how tiles are cut, scored and put together, not how good a model is on a real line.
"""

import csv
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from experiments.steel_defects.patches import SIDE, STEP, Picture, defect_places, free_places

WIDTH = 4096  # pixels
HEIGHT = 1024
FADE = 16  # pixels over which neighbors are faded into each other
BRIGHTNESS = 128.0  # mean of the background
MOST = 3  # defects of a picture
FEWEST = 20  # windows of good steel, below which a kind makes no background


class Defect(NamedTuple):
    """A defect in a line-scan picture; the box is in pixels."""

    picture: str
    label: str
    left: int
    top: int
    width: int
    height: int


def write_lines(pictures: Sequence[Picture], out: pathlib.Path, count: int) -> list[Defect]:
    """Writes pictures, every second one with defects, unless that is done.

    Args:
        pictures: annotated pictures that no model has learned from.
        out: the directory to write.
        count: number of pictures.

    Returns:
        their defects.
    """
    if not out.is_dir():
        hidden = out.with_name(f".{out.name}")
        hidden.mkdir(parents=True, exist_ok=True)
        kinds = _kinds(pictures)
        defects = []
        for number in range(count):
            label = sorted(kinds)[number // 2 % len(kinds)]
            name = f"{number:02}-{label}"
            random = np.random.default_rng(number)
            image, boxes = _line(*kinds[label], random, number % 2)
            cv2.imwrite(str(hidden / f"{name}.png"), image)
            defects += [Defect(f"{name}.png", label, *box) for box in boxes]
        with (hidden / "defects.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Defect._fields)
            writer.writerows(defects)
        hidden.rename(out)
    return read_defects(out)


def read_defects(folder: pathlib.Path) -> list[Defect]:
    """Returns the defects of the pictures in a folder that `write_lines` has written."""
    with (folder / "defects.csv").open(newline="") as file:
        return [
            Defect(row["picture"], row["label"], *(int(row[key]) for key in Defect._fields[2:]))
            for row in csv.DictReader(file)
        ]


def _kinds(pictures: Sequence[Picture]) -> dict[str, tuple[list[np.ndarray], list[np.ndarray]]]:
    """Returns {class: (windows of good steel, windows with a defect)} of classes with enough."""
    kinds: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for picture in pictures:
        good, bad = kinds.setdefault(picture.label, ([], []))
        for windows, places in ((good, free_places(picture)), (bad, defect_places(picture))):
            windows += [
                picture.pixels[top : top + SIDE, left : left + SIDE].astype(np.float32)
                for top, left in places * STEP
            ]
    return {label: both for label, both in kinds.items() if len(both[0]) >= FEWEST and both[1]}


def _line(
    good: list[np.ndarray], bad: list[np.ndarray], random: np.random.Generator, is_bad: int
) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Returns a picture, uint8 (HEIGHT, WIDTH), and the boxes of its defects."""
    step = SIDE - FADE
    ramp = np.minimum(1.0, (np.arange(SIDE) + 1) / (FADE + 1))
    edge = np.minimum(ramp, ramp[::-1])
    weight = np.outer(edge, edge).astype(np.float32)
    total = np.zeros((HEIGHT + SIDE, WIDTH + SIDE), np.float32)
    weights = np.zeros_like(total)
    for top in range(0, HEIGHT, step):
        for left in range(0, WIDTH, step):
            window = good[random.integers(len(good))]
            window = window[:: random.choice((1, -1)), :: random.choice((1, -1))]
            area = np.s_[top : top + SIDE, left : left + SIDE]
            total[area] += weight * (window - window.mean() + BRIGHTNESS)
            weights[area] += weight
    image = (total / np.maximum(weights, 1e-6))[:HEIGHT, :WIDTH]
    boxes = []
    for _ in range(random.integers(1, MOST + 1) if is_bad else 0):
        left = int(random.integers(WIDTH - SIDE))
        top = int(random.integers(HEIGHT - SIDE))
        window = bad[random.integers(len(bad))]
        area = np.s_[top : top + SIDE, left : left + SIDE]
        shifted = window - window.mean() + BRIGHTNESS
        image[area] = (1 - weight) * image[area] + weight * shifted
        boxes.append((left, top, SIDE, SIDE))
    return np.clip(np.round(image), 0, 255).astype(np.uint8), boxes
