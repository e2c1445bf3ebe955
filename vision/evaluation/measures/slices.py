"""Where does it fail? Accuracy over parts of the images: dark ones, small ones, those of one folder
or camera."""

import concurrent.futures
import io
import os

import numpy as np

from vision.data.decode import UnreadableImage, read_size
from vision.evaluation.measures.statistics import share
from vision.support.processes import cores

PARTS = 4  # that numbers are cut into, equally many images in each
CATEGORIES = 50  # different texts, or numbers, above which a column is no category


def measure(outputs, source, nll, correct, smallest):
    """Returns the accuracy of each slice, those that are surely worst first.

    Slices are quarters by brightness, contrast and size, the folders that images lie in, and the
    columns of a table. A division that only repeats the classes is left out, and so are slices of
    fewer images than `smallest`.

    Args:
        outputs: `vision.evaluation.outputs.Outputs`.
        source: the split's source.
        nll: float (N,), the cross-entropy of each image, nats.
        correct: bool (N,).
        smallest: images.

    Returns:
        [{"by", "slice", "images", "accuracy": {"value", "low", "high"}, "nll"}], ordered by the
        upper end of the accuracy's 95 % interval (Wilson 1927).
    """
    found = []
    for by, (names, place) in groups(outputs, source).items():
        if len(names) < 2 or _repeats(place, outputs.labels):
            continue
        for part, name in enumerate(names):
            chosen = place == part
            if (count := int(chosen.sum())) < smallest:
                continue
            one = {
                "by": by,
                "slice": name,
                "images": count,
                "accuracy": share(correct[chosen].sum(), count),
            }
            found.append(one | {"nll": float(nll[chosen].mean())})
    return sorted(found, key=lambda one: (one["accuracy"]["high"], one["by"], one["slice"]))


def groups(outputs, source):
    """Returns {what images are divided by: (names of the parts, int64 (N,) each image's part, -1 =
    unknown)}."""
    found = {"brightness": quarters(outputs.brightness), "contrast": quarters(outputs.contrast)}
    found["size"] = quarters(sizes(source, outputs.rows), "{:.0f} to {:.0f} px")
    found |= folders([source.name(int(row)) for row in outputs.rows])
    return found | {f"column {k}": category(v) for k, v in columns_of(source, outputs.rows).items()}


def quarters(values, form="{:.2f} to {:.2f}"):
    """Returns (names, int64 (N,)): the part of each number, equally many in each as far as equal
    numbers allow.

    Args:
        values: float (N,); NaN where unknown, which is -1.
        form: of a part's name, from its lowest and its highest number.
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    edges = (
        np.unique(np.quantile(values[known], np.linspace(0, 1, PARTS + 1)[1:-1]))
        if known.any()
        else []
    )
    kinds, place = np.unique(np.searchsorted(edges, values[known], "right"), return_inverse=True)
    parts = [values[known][place == part] for part in range(len(kinds))]
    result = np.full(len(values), -1, np.int64)
    result[known] = place
    return [form.format(part.min(), part.max()) for part in parts], result


def category(values):
    """Returns (names, int64 (N,)) of a table's column: texts as they are, many different numbers in
    quarters.

    Of many different texts there is no part: ([], ...).
    """
    kinds, place = np.unique(
        [str(value).strip() or "(empty)" for value in values], return_inverse=True
    )
    if len(kinds) <= CATEGORIES:
        return kinds.tolist(), place
    try:
        return quarters(
            [float(value) if str(value).strip() else np.nan for value in values], "{:g} to {:g}"
        )
    except ValueError:
        return [], place


def folders(names):
    """Returns {"folder, level i": (names, int64 (N,))} for each level of folders that all images
    have; {} for no files.

    Levels count from where the images' paths part.
    """
    if not all(os.path.isabs(name) or os.sep in name for name in names):
        return {}
    parts = [os.path.dirname(name).split(os.sep) for name in names]
    levels = [category([part[i] for part in parts]) for i in range(min(map(len, parts)))]
    levels = [level for level in levels if len(level[0]) > 1]
    return {f"folder, level {i}": level for i, level in enumerate(levels, 1)}


def sizes(source, rows):
    """Returns the shorter side of each image as it is stored, pixels, float64 (N,); NaN where it
    cannot be read."""

    def one(row):
        row = int(row)
        try:
            if not source.encoded:
                return min(source[row]["image"].shape[:2])
            name = source.name(row)
            file = name if os.path.isfile(name) else source.file(row)
            if file is None:
                return min(source[row]["image"].shape[:2])
            return min(read_size(io.BytesIO(file) if isinstance(file, bytes) else file))
        except UnreadableImage:
            return np.nan

    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        return np.array(list(pool.map(one, rows, chunksize=64)), np.float64)


def columns_of(source, rows):
    """Returns {name: N values} of the table's other columns that images come from; {} where they
    come from none.

    Args:
        source: any source; a division into splits is looked through.
        rows: int (N,), positions in it.
    """
    rows = np.asarray(rows, np.int64)
    if hasattr(source, "columns"):
        return {name: [values[row] for row in rows] for name, values in source.columns.items()}
    if hasattr(source, "sources") and hasattr(source, "locate"):
        placed = [source.locate(int(row)) for row in rows]
        parts = [columns_of(part, [row]) for part, row in placed]
        known = set.intersection(*(set(part) for part in parts)) if parts else set()
        return (
            {name: [part[name][0] for part in parts] for name in parts[0] if name in known}
            if parts
            else {}
        )
    if hasattr(source, "source"):
        return columns_of(
            source.source, source.indices[rows] if hasattr(source, "indices") else rows
        )
    return {}


def _repeats(place, labels):
    """Whether a division is the classes over again: each part holds one class, each class lies in
    one part."""
    pairs = len(np.unique(np.stack([place, labels]), axis=1).T)
    return pairs == len(np.unique(place)) == len(np.unique(labels))
