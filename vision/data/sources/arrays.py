"""`arrays:FILE.npz`: images of one size and their labels, as NumPy arrays.

images, labels [, classes] [, split]                        split: N texts, "train", "val" or "test"
x_train, y_train, x_test, y_test [, x_val, y_val]           as Keras stores MNIST and CIFAR-10
train_images, train_labels, val_images, ... [, classes]     as in MedMNIST

Further values of the images, such as tokens of a text, are arrays named fields_NAME (N, ...), or
fields_NAME_SPLIT if the file has splits: an objective gets them as batch["NAME"].
"""

import os

import numpy as np

from vision.data.files import SPLITS
from vision.data.sources import Source
from vision.data.sources._arrays import ArraySource
from vision.data.sources._columns import index_labels, keep, scatter
from vision.data.subset import Subset
from vision.errors import UserError
from vision.support.arrays import is_npy, read_npz

FIELDS = "fields_"  # what the names of further values start with
_LAYOUTS = ("{split}_images", "{split}_labels"), ("x_{split}", "y_{split}")


def open(argument: str) -> dict[str, Source]:
    """Opens a file of arrays.

    Images are uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3). Labels are integers or texts, (N,) or
    (N, 1); -1 or "" means no label. `classes` are the names of the integers; without them, the
    numbers that occur.

    Returns:
        {"all": source}, or a dict with some of "train", "val", "test".

    Raises:
        UserError: no such file, none of the layouts, or arrays of another type or shape.
    """
    arrays = _read(argument)
    keys = _find_keys(argument, arrays)
    images = {split: _images(argument, name, arrays) for split, (name, _) in keys.items()}
    labels = {split: _labels(argument, names, arrays) for split, names in keys.items()}
    if len({isinstance(values, list) for values in labels.values()}) > 1:
        raise UserError(f"{argument}: labels are numbers in one split and text in another")
    names = _class_names(argument, arrays["classes"]) if "classes" in arrays else None
    if names and isinstance(next(iter(labels.values())), list):
        raise UserError(
            f"{argument}: labels are text, so the array classes is not needed: "
            "leave it out, or make the labels numbers"
        )
    kept, classes, findings = index_labels(
        labels, names, lambda split, row: f"{_title(argument, split)}[{row}]"
    )
    sources = {}
    for split, (rows, numbers) in kept.items():
        every_label = scatter(rows, numbers, len(images[split]))
        title = _title(argument, split)
        source = ArraySource(images[split], every_label, classes, title, findings)
        source.fields = _fields(argument, split, arrays, len(source))
        sources[split] = keep(source, rows)
    if "split" in arrays and "all" in sources:
        return _divide(
            argument, sources["all"], arrays["split"], kept["all"][0], len(images["all"])
        )
    return sources


def _title(argument, split):
    return argument if split == "all" else f"{argument}/{split}"


def _read(argument):
    file = os.path.expanduser(argument)
    if is_npy(file):
        raise UserError(
            f"{argument} is a single array: save it with np.savez(FILE, images=..., labels=...)"
        )
    return read_npz(file, "save arrays of numbers or texts with np.savez")


def _find_keys(argument, arrays):
    """Returns {split: (key of its images, key of its labels)}."""
    if "images" in arrays and "labels" in arrays:
        return {"all": ("images", "labels")}
    keys = {}
    for name, split in SPLITS.items():
        for layout in _LAYOUTS:
            images, labels = (key.format(split=name) for key in layout)
            if images in arrays and labels in arrays:
                keys[split] = images, labels
    if not keys:
        raise UserError(
            f"{argument} contains {', '.join(arrays) or 'nothing'}: expected images and labels, "
            "or x_train, y_train, x_test, y_test, or train_images, train_labels and so on"
        )
    return keys


def _images(argument, key, arrays):
    images = arrays[key]
    if images.dtype != np.uint8:
        raise UserError(
            f"{argument}: {key} is {images.dtype}, but pixels must be uint8, from 0 to 255: "
            "for values in [0, 1] save np.round(255 * images).astype(np.uint8)"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise UserError(
            f"{argument}: {key} has the shape {images.shape}, "
            "but must be (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
        )
    return images


def _labels(argument, keys, arrays):
    """Returns int64 (N,), or a list of N texts."""
    images_key, labels_key = keys
    labels = arrays[labels_key]
    count = len(arrays[images_key])
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iuU":
        hint = ": for one-hot labels, use labels.argmax(1)" if labels.ndim == 2 else ""
        raise UserError(
            f"{argument}: {labels_key} is {labels.dtype} {arrays[labels_key].shape}, "
            f"but must be one integer or text for each of {count:,} images{hint}"
        )
    return labels.tolist() if labels.dtype.kind == "U" else labels.astype(np.int64)


def _fields(argument, split, arrays, count):
    """Returns {name: (N, ...)} of the further values of a split's images."""
    suffix = "" if split == "all" else f"_{split}"
    fields = {}
    for key, values in arrays.items():
        if not (key.startswith(FIELDS) and key.endswith(suffix)):
            continue
        if len(values) != count or values.dtype.kind not in "iufb":
            raise UserError(
                f"{argument}: {key} is {values.dtype} {values.shape}, but must hold numbers for "
                f"each of {count:,} images"
            )
        fields[key.removeprefix(FIELDS).removesuffix(suffix)] = values
    return fields


def _class_names(argument, classes):
    if classes.ndim != 1:
        raise UserError(
            f"{argument}: classes has the shape {classes.shape}, but must be one name per class"
        )
    return [str(name) for name in classes.tolist()]


def _divide(argument, source, split, rows, count):
    """Divides a source by the names of the splits.

    Args:
        argument: the file, for messages.
        source: the images that have a label.
        split: `count` texts, one for each image of the file.
        rows: int64 (n,), the images of the file that are in the source.
        count: number of images in the file.
    """
    if split.shape != (count,) or split.dtype.kind != "U":
        raise UserError(
            f"{argument}: split is {split.dtype} {split.shape}, "
            f"but must be one text for each of {count:,} images"
        )
    unknown = sorted({name for name in split.tolist() if name.lower() not in SPLITS})
    if unknown:
        raise UserError(
            f"{argument}: split contains {unknown[0]!r}, but must be one of {', '.join(SPLITS)}"
        )
    split_of_row = np.array([SPLITS[name.lower()] for name in split[rows].tolist()])
    parts = {
        name: Subset(source, np.flatnonzero(split_of_row == name))
        for name in ("train", "val", "test")
        if name in split_of_row
    }
    return parts or {"all": source}  # a source without any labels
