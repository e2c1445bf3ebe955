"""What datumaro exports to VOC, CVAT and COCO is read back as it was: labels, boxes, splits."""

import json
from pathlib import Path, PurePath

import numpy as np
import pytest

from vision.data.sources import open_splits

FOLDER = Path(__file__).parent / "datumaro"
COLORS = {"cat": (220, 30, 30), "dog": (30, 200, 30), "hot dog": (30, 30, 220)}
# the folder that an image's own name begins below
LISTED = {"voc": "JPEGImages", "cvat": "images", "coco": "images"}


def read_back(folder, form, boxes):
    """Returns {split: {image: [(label, box or None)]}} of an exported data set."""
    read = {}
    for split, source in open_splits(f"{form}:{folder / form}?boxes={boxes}&margin=0").items():
        for i in range(len(source)):
            path = PurePath(source.name(i).partition("#")[0]).relative_to(
                folder / form / LISTED[form]
            )
            name = str(path.relative_to(split) if form == "coco" else path)
            box = tuple(int(side) for side in source.boxes[i]) if boxes == "crop" else None
            label = source.classes[source.labels[i]]
            read.setdefault(split, {}).setdefault(name, []).append((label, box))
    return read


def check(folder):
    """Compares all three forms under a folder with the expected.json that was written beside
    them."""
    expected = json.loads((folder / "expected.json").read_text())
    for form in LISTED:
        main = read_back(folder, form, "main")
        crops = read_back(folder, form, "crop")
        assert main.keys() == crops.keys() == expected.keys()
        for split, images in expected.items():
            assert main[split].keys() == crops[split].keys() == images.keys()
            for name, objects in images.items():
                label, _ = max(objects, key=lambda pair: pair[1][2] * pair[1][3])
                assert main[split][name] == [(label, None)]
                more = 1 if form == "voc" else 0  # datumaro counts from 0, VOC from 1
                boxes = [
                    (label, (x - more, y - more, x + w, y + h)) for label, (x, y, w, h) in objects
                ]
                assert crops[split][name] == boxes


def test_three_forms_hold_the_same():
    check(FOLDER)


@pytest.mark.parametrize("form", LISTED)
def test_crops_show_their_class(form):
    """Every object has its class's color, and around it is gray."""
    for source in open_splits(f"{form}:{FOLDER / form}?boxes=crop").values():
        for i in range(len(source)):
            image = source[i]["image"].astype(int)
            height, width = image.shape[:2]
            middle = image[height // 2 - 1 : height // 2 + 2, width // 2 - 1 : width // 2 + 2].mean(
                (0, 1)
            )
            assert np.abs(middle - COLORS[source.classes[source.labels[i]]]).max() < 25
            assert source.file(i) is None
    kinds = {finding.kind for finding in source.findings}
    assert kinds == set()
