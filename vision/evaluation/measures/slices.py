"""Where does it fail? Accuracy on parts of the images: dark ones, small ones, each folder."""

import concurrent.futures
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.data.decode import UnreadableImage, read_size
from vision.data.sources import Source
from vision.evaluation.measures.statistics import share
from vision.evaluation.outputs import Outputs
from vision.support.processes import cores

PARTS = 4  # that numbers are divided into, with equally many images
CATEGORIES = 50  # a column with more different values is not a category

# names of the parts, and each image's part, int64 (N,), -1 if unknown
Division = tuple[list[str], np.ndarray]


def measure(
    outputs: Outputs, source: Source, nll: np.ndarray, correct: np.ndarray, smallest: int
) -> list[dict[str, Any]]:
    """Returns the accuracy of each slice, first those that are most surely bad.

    Slices are quarters by brightness, contrast and size, the folders of the images, and the columns
    of a table. A division that only repeats the classes is left out, and so are small slices.

    Args:
        outputs: the model's outputs.
        source: the split's source.
        nll: float (N,), the cross-entropy of each image, nats.
        correct: bool (N,).
        smallest: images of the smallest slice.

    Returns:
        [{"by", "slice", "images", "accuracy": {"value", "low", "high"}, "nll"}], ordered by the
        upper end of the accuracy's 95 % interval (Wilson 1927).
    """
    slices = []
    for by, (names, place) in groups(outputs, source).items():
        if len(names) < 2 or _repeats(place, outputs.labels):
            continue
        for part, name in enumerate(names):
            chosen = place == part
            count = int(chosen.sum())
            if count < smallest:
                continue
            slices.append(
                {
                    "by": by,
                    "slice": name,
                    "images": count,
                    "accuracy": share(correct[chosen].sum(), count),
                    "nll": float(nll[chosen].mean()),
                }
            )
    return sorted(slices, key=lambda s: (s["accuracy"]["high"], s["by"], s["slice"]))


def groups(outputs: Outputs, source: Source) -> dict[str, Division]:
    """Returns {property: division of the images by it}."""
    divisions = {
        "brightness": quarters(outputs.brightness),
        "contrast": quarters(outputs.contrast),
        "size": quarters(sizes(source, outputs.rows), "{:.0f} to {:.0f} px"),
    }
    divisions |= folders([source.name(int(row)) for row in outputs.rows])
    for name, values in columns_of(source, outputs.rows).items():
        divisions[f"column {name}"] = category(values)
    return divisions


def quarters(values: Sequence[float] | np.ndarray, form: str = "{:.2f} to {:.2f}") -> Division:
    """Returns a division of numbers into parts of equal size, as far as equal numbers allow.

    Args:
        values: float (N,); NaN if unknown.
        form: format of a part's name, from its lowest and its highest number.
    """
    values = np.asarray(values, np.float64)
    is_finite = np.isfinite(values)
    finite = values[is_finite]
    edges = np.zeros(0)
    if len(finite):
        edges = np.unique(np.quantile(finite, np.linspace(0, 1, PARTS + 1)[1:-1]))
    kinds, place = np.unique(np.searchsorted(edges, finite, "right"), return_inverse=True)
    parts = [finite[place == part] for part in range(len(kinds))]
    result = np.full(len(values), -1, np.int64)
    result[is_finite] = place
    return [form.format(part.min(), part.max()) for part in parts], result


def category(values: Sequence) -> Division:
    """Returns the division of the images by a table's column.

    Each text is a part; many different numbers are divided into quarters; many different texts
    have no parts.
    """
    texts = [str(value).strip() or "(empty)" for value in values]
    kinds, place = np.unique(texts, return_inverse=True)
    if len(kinds) <= CATEGORIES:
        return kinds.tolist(), place
    try:
        numbers = [float(value) if str(value).strip() else np.nan for value in values]
    except ValueError:
        return [], place
    return quarters(numbers, "{:g} to {:g}")


def folders(names: Sequence[str]) -> dict[str, Division]:
    """Returns {"folder, level i": division} for each level of folders that all images have.

    Levels count from where the images' paths diverge. Names that are not paths have none.
    """
    if not all(os.path.isabs(name) or os.sep in name for name in names):
        return {}
    parts = [os.path.dirname(name).split(os.sep) for name in names]
    levels = [category([part[i] for part in parts]) for i in range(min(map(len, parts)))]
    levels = [level for level in levels if len(level[0]) > 1]
    return {f"folder, level {i}": level for i, level in enumerate(levels, 1)}


def sizes(source: Source, rows: np.ndarray) -> np.ndarray:
    """Returns the shorter side of each stored image in pixels, float64 (N,); NaN if unreadable."""

    def shorter_side(row):
        row = int(row)
        try:
            file = _file(source, row)
            if file is None:
                return min(source[row]["image"].shape[:2])
            return min(read_size(io.BytesIO(file) if isinstance(file, bytes) else file))
        except UnreadableImage:
            return np.nan

    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        return np.array(list(pool.map(shorter_side, rows, chunksize=64)), np.float64)


def _file(source, row):
    """Returns the path or the bytes of an image's file; None if it is not stored as a file."""
    if not source.encoded:
        return None
    name = source.name(row)
    return name if os.path.isfile(name) else source.file(row)


def columns_of(source: Source, rows: Sequence[int] | np.ndarray) -> dict[str, list]:
    """Returns {name: N values} of the other columns of the table that lists the images.

    {} if they do not come from a table. Of joined sources, the images of one that has no such
    column have "" in it.

    Args:
        source: any source; the table is also found behind a division into splits.
        rows: int (N,), positions in it.
    """
    rows = np.asarray(rows, np.int64)
    if hasattr(source, "columns"):
        return {name: [values[row] for row in rows] for name, values in source.columns.items()}
    if hasattr(source, "sources") and hasattr(source, "locate"):
        return _joined_columns(source, rows)
    if hasattr(source, "source"):
        inner_rows = source.indices[rows] if hasattr(source, "indices") else rows
        return columns_of(source.source, inner_rows)
    return {}


def _joined_columns(joined, rows):
    """Returns {name: N values} of the columns that the source of any image has."""
    located = [joined.locate(int(row)) for row in rows]
    columns = {}
    for source in {id(source): source for source, _ in located}.values():
        places = [place for place, (owner, _) in enumerate(located) if owner is source]
        values = columns_of(source, [located[place][1] for place in places])
        for name, cells in values.items():
            column = columns.setdefault(name, [""] * len(rows))
            for place, cell in zip(places, cells, strict=True):
                column[place] = cell
    return columns


def _repeats(place, labels):
    """Whether a division repeats the classes: each part is one class, each class in one part."""
    pairs = len(np.unique(np.stack([place, labels]), axis=1).T)
    return pairs == len(np.unique(place)) == len(np.unique(labels))
