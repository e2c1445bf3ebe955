"""Writes tests/data/datumaro/: a tiny data set as datumaro exports it to VOC, CVAT and COCO, and
what it holds.

    python tests/data/make_datumaro.py [FOLDER]     # needs datumaro; made with datumaro 1.13.12

Datumaro wants another OpenCV than ours, so it lives in an environment of its own; the tests need
the files only. Every object is a rectangle in its class's color, so that a crop shows its class.
"""

import json
import sys
from pathlib import Path

import numpy as np
from datumaro.components.annotation import Bbox
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image

COLORS = {"cat": (220, 30, 30), "dog": (30, 200, 30), "hot dog": (30, 30, 220)}
CLASSES = list(COLORS)
HEIGHT = 48
WIDTH = 64


def main(folder):
    expected = {}
    items = []
    for number in range(9):
        split = ("train", "train", "val", "test")[number % 4]
        name = f"deep/{number}" if number % 3 == 0 else f"photo {number}"
        first = CLASSES[number % 3]
        second = CLASSES[(number + 1) % 3]
        objects = [(first, (2 + number, 4, 12, 8)), (second, (30, 10, 24 + number, 26))]
        objects += [(first, (4, 24, 16, 20))] if number % 2 else []
        expected.setdefault(split, {})[f"{name}.jpg"] = objects
        image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
        for label, (x, y, width, height) in objects:
            image[y : y + height, x : x + width] = COLORS[label][::-1]  # OpenCV's order
        boxes = [
            Bbox(*box, label=CLASSES.index(label), id=i, group=i)
            for i, (label, box) in enumerate(objects, 1)
        ]
        items.append(
            DatasetItem(
                id=name, subset=split, media=Image.from_numpy(data=image), annotations=boxes
            )
        )
    dataset = Dataset.from_iterable(items, categories=CLASSES)
    for form, name in {"voc": "voc_detection", "cvat": "cvat", "coco": "coco_instances"}.items():
        dataset.export(str(folder / form), name, save_media=True)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "datumaro")
