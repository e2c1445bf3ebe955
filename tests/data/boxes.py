"""Images and annotations of boxes, and what a source says of them."""

from pathlib import PurePath

import numpy as np
from PIL import Image

WIDTH = 100


HEIGHT = 60


def write_image(path, size=(WIDTH, HEIGHT), **options):
    """Writes an image whose red is the column and whose green is the row, so that a crop shows
    where it came from."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)).save(path, **options)


def voc(path, filename, *objects, size=(WIDTH, HEIGHT)):
    things = "".join(
        f"<object><name>{label}</name><bndbox>"
        + "".join(
            f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for label, box in objects
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>{filename}</filename>{sides}{things}</annotation>")


def labels(source):
    """Returns {file, without folders: label}."""
    return {
        PurePath(source.name(i)).name: source.classes[source.labels[i]] for i in range(len(source))
    }


def names_by_kind(splits):
    """Returns {kind: [name, without folders]}."""
    kinds = {}
    for finding in next(iter(splits.values())).findings:
        kinds.setdefault(finding.kind, []).append(PurePath(finding.name).name)
    return kinds


def where(image):
    """Returns (left, top, right, bottom) of a crop, as its own pixels tell."""
    return image[0, 0, 0], image[0, 0, 1], image[0, -1, 0] + 1, image[-1, 0, 1] + 1
