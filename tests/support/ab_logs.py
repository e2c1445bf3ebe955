"""Prediction logs of two versions whose truth is chosen, for tests of A/B tests."""

import csv

import numpy as np
import pyarrow
import pyarrow.parquet

from vision.reference.features import NAMES
from vision.reference.log_format import schema
from vision.reference.sketch import DIMENSIONS

START = 1_760_000_000.0
CLASSES = np.array(["cat", "dog"], object)


def write(directory, columns, number=0, metadata=None):
    """Writes a file of a log; what `columns` leaves out has a plain value.

    Args:
        directory: the log's.
        columns: {name: (N,)}; `id` and `version` at least, `seconds` instead of `time`.
        number: of the file.
        metadata: of the file, instead of the format's.
    """
    directory.mkdir(exist_ok=True)
    count = len(columns["id"])
    seconds = columns.get("seconds", START + np.arange(count))
    filled = {
        "model": ["pets"] * count,
        "shadow": np.zeros(count, bool),
        "image": np.zeros(count, np.int32),
        "class": ["cat"] * count,
        "sha256": [None] * count,
        "kept": [None] * count,
        "unsure": [None] * count,
        "bundle": [f"{version:0>16}" for version in columns["version"]],
        **{name: np.full(count, 0.5, np.float32) for name in NAMES},
        **{name: list(values) for name, values in columns.items() if name != "seconds"},
        "time": (np.asarray(seconds) * 1e6).astype(np.int64),
    }
    flat = pyarrow.array(np.zeros(count * DIMENSIONS, np.float16))
    filled["sketch"] = pyarrow.FixedSizeListArray.from_arrays(flat, DIMENSIONS)
    table = pyarrow.Table.from_pydict(filled, schema=schema(pyarrow))
    if metadata is not None:
        table = table.replace_schema_metadata(metadata)
    name = f"predictions-20991231T000000.000000Z-1-{number:06}.parquet"
    pyarrow.parquet.write_table(table, directory / name)


def write_labels(path, ids, images, labels):
    """Writes a CSV file of labels."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "label"])
        writer.writerows(zip(ids, images, labels, strict=True))


def draw(random, requests, accuracies, images=1, share_new=0.5):
    """Returns (columns of a log, true classes) of two versions, "1" and "2".

    Args:
        random: NumPy's generator.
        requests: their number.
        accuracies: of the versions.
        images: in each request; they are right or wrong together.
        share_new: of the requests.
    """
    is_new = random.random(requests) < share_new
    right = random.random(requests) < np.where(is_new, accuracies[1], accuracies[0])
    request = np.repeat(np.arange(requests), images)
    truth = random.integers(0, 2, requests)[request]
    predicted = np.where(right[request], truth, 1 - truth)
    columns = {
        "id": [f"r{i}" for i in request],
        "image": np.tile(np.arange(images), requests),
        "version": np.where(is_new, "2", "1")[request],
        "class": CLASSES[predicted],
        "seconds": START + request,
    }
    return columns, CLASSES[truth]
