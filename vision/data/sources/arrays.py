"""`arrays:FILE.npz`: images and labels as NumPy arrays, of one size.

images, labels [, classes] [, split]                        split: N texts, "train", "val" or "test"
x_train, y_train, x_test, y_test [, x_val, y_val]           as Keras keeps MNIST and CIFAR-10
train_images, train_labels, val_images, ... [, classes]     as MedMNIST
"""

import os
import zipfile

import numpy as np

from vision.data.files import SPLITS
from vision.data.sources._arrays import ArraySource
from vision.data.sources._columns import index_labels
from vision.data.splits import Subset
from vision.errors import UserError

_LAYOUTS = ("{split}_images", "{split}_labels"), ("x_{split}", "y_{split}")


def open(argument):
    """Opens a file of arrays.

    Images are uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3). Labels are integers, or texts, (N,) or
    (N, 1); -1 or "" = none. `classes` are the integers' names: without them, the numbers that
    occur.

    Returns:
        {"all": source}, or a dict with some of "train", "val", "test".

    Raises:
        UserError: no such file, none of the layouts, or arrays of another type or shape.
    """
    arrays = _read(argument)
    parts = {"all": ("images", "labels")} if "images" in arrays and "labels" in arrays else {}
    for name, split in () if parts else SPLITS.items():
        for images, labels in _LAYOUTS:
            if images.format(split=name) in arrays and labels.format(split=name) in arrays:
                parts[split] = images.format(split=name), labels.format(split=name)
    if not parts:
        raise UserError(
            f"{argument} holds {', '.join(arrays) or 'nothing'}: expected images and labels, or x_train, y_train, "
            "x_test, y_test, or train_images, train_labels and so on"
        )
    images = {split: _images(argument, keys[0], arrays) for split, keys in parts.items()}
    labels = {split: _labels(argument, keys, arrays) for split, keys in parts.items()}
    if len({isinstance(values, list) for values in labels.values()}) > 1:
        raise UserError(f"{argument}: labels are numbers in one split and texts in another")
    names = _names(argument, arrays["classes"]) if "classes" in arrays else None
    if names and isinstance(next(iter(labels.values())), list):
        raise UserError(
            f"{argument}: labels are texts, so classes are not needed: leave them out or number the labels"
        )
    kept, classes, findings = index_labels(
        labels, names, lambda split, row: f"{_title(argument, split)}[{row}]"
    )
    sources = {}
    for split, (rows, numbers) in kept.items():
        whole = np.zeros(len(images[split]), np.int32)
        whole[rows] = numbers
        source = ArraySource(images[split], whole, classes, _title(argument, split), findings)
        sources[split] = source if len(rows) == len(source) else Subset(source, rows)
    if "split" in arrays and "all" in sources:
        return _divide(
            argument, sources["all"], arrays["split"], kept["all"][0], len(images["all"])
        )
    return sources


def _title(argument, split):
    return argument if split == "all" else f"{argument}/{split}"


def _read(argument):
    try:
        file = np.load(os.path.expanduser(argument), allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UserError(
                f"{argument} is a single array: save it with np.savez(FILE, images=..., labels=...)"
            )
        with file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read {argument!r}: {getattr(error, 'strerror', None) or error}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{argument} holds Python objects, or is no .npz file: save arrays of numbers or texts"
        ) from error


def _images(argument, key, arrays):
    images = arrays[key]
    if images.dtype != np.uint8:
        raise UserError(
            f"{argument}: {key} is {images.dtype}, and pixels must be uint8, from 0 to 255: "
            "for values in [0, 1] save np.round(255 * images).astype(np.uint8)"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise UserError(
            f"{argument}: {key} has the shape {images.shape}, not (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
        )
    return images


def _labels(argument, keys, arrays):
    """Returns int64 (N,), or a list of N texts."""
    labels = arrays[keys[1]]
    count = len(arrays[keys[0]])
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iuU":
        raise UserError(
            f"{argument}: {keys[1]} is {labels.dtype} {arrays[keys[1]].shape}, not one integer or text for each of "
            f"{count:,} images"
            + (": from one-hot take labels.argmax(1)" if labels.ndim == 2 else "")
        )
    return labels.tolist() if labels.dtype.kind == "U" else labels.astype(np.int64)


def _names(argument, classes):
    if classes.ndim != 1:
        raise UserError(
            f"{argument}: classes has the shape {classes.shape}, not one name for each class"
        )
    return [str(name) for name in classes.tolist()]


def _divide(argument, source, split, rows, count):
    """Divides a source by the names of the splits: `count` texts, of which the source has
    `rows`."""
    if split.shape != (count,) or split.dtype.kind != "U":
        raise UserError(
            f"{argument}: split is {split.dtype} {split.shape}, not one text for each of {count:,} images"
        )
    unknown = sorted({name for name in split.tolist() if name.lower() not in SPLITS})
    if unknown:
        raise UserError(
            f"{argument}: split holds {unknown[0]!r}, which must be one of {', '.join(SPLITS)}"
        )
    ours = np.array([SPLITS[name.lower()] for name in split[rows].tolist()])
    parts = {
        name: Subset(source, np.flatnonzero(ours == name))
        for name in ("train", "val", "test")
        if name in ours
    }
    return parts or {"all": source}  # which has no labels at all
