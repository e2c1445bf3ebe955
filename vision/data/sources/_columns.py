"""What tables of images share: the choice of columns, and label numbers for all splits together."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from vision.data.findings import Finding
from vision.data.labels import check_spelling, strip, to_indices
from vision.data.sources import Source
from vision.data.subset import Subset
from vision.errors import UserError

IMAGES = ("image", "img")
LABELS = ("label", "labels", "class", "target", "fine_label")


def choose(
    option: str, given: str, fitting: Collection[str], common: Sequence[str], title: str
) -> str:
    """Returns the name of the column that holds the images or the labels.

    Args:
        option: the option that sets it: "image" or "label".
        given: the user's choice; "" if none.
        fitting: names of the columns of a suitable type.
        common: names that such a column commonly has, the likeliest first.
        title: the source's name, for messages.

    Raises:
        UserError: the given column is not suitable, or none is, or several are and none of them has
            a common name.
    """
    candidates = [given] if given else [name for name in common if name in fitting] or [*fitting]
    hint = f"set ?{option}= to {' or '.join(fitting)}"
    if len(candidates) > 1 and candidates[0] not in common:
        raise UserError(f"{title} has several columns that may be its {option}: {hint}")
    if not candidates or candidates[0] not in fitting:
        missing = f"column {given!r} that holds {option}s" if given else f"column of {option}s"
        raise UserError(f"{title} has no {missing}" + (f": {hint}" if fitting else ""))
    return candidates[0]


def index_labels(
    values: Mapping[str, np.ndarray | list[str]],
    names: Sequence[str] | None,
    title: Callable[[str, int], str],
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...], list[Finding]]:
    """Numbers the labels of all splits.

    Args:
        values: {split: N integers as an array, or N texts as a list}; -1 or "" means no label.
        names: names of the integers; empty if the table does not contain them.
        title: function of (split, row) that names an image in findings.

    Returns:
        ({split: (rows, labels)}, classes, findings): the rows that have a label, int64 (n,), and
        their labels, int32 (n,). A split without any label, as some test splits are, is left out.
        Without `names` the classes are the values that occur: integers by value, texts by name.
    """
    findings: list[Finding] = []
    if names and not any(isinstance(numbers, list) for numbers in values.values()):
        labels = {split: np.asarray(numbers, np.int64) for split, numbers in values.items()}
        classes = tuple(names)
    else:
        labels, classes, findings = _number(values)
    every_label = np.concatenate(list(labels.values()))
    valid = (every_label >= 0) & (every_label < len(classes))
    findings += check_spelling(every_label[valid], classes)
    kept = {}
    for split, numbers in labels.items():
        rows = np.flatnonzero((numbers >= 0) & (numbers < len(classes)))
        if not len(rows) and len(labels) > 1:
            kind = "splits have no labels and are left out"
            findings.append(Finding(kind, split, f"{len(numbers):,} images"))
            continue
        kept[split] = rows, numbers[rows].astype(np.int32)
        for row in np.setdiff1d(np.arange(len(numbers)), rows):
            detail = f"{numbers[row]}, of {len(classes)} classes" if numbers[row] >= 0 else ""
            findings.append(
                Finding("images have no label", title(split, int(row)), detail, lost=True)
            )
    return kept, classes, findings


def _number(values):
    """Returns ({split: int64 (N,), -1 for no label}, classes, findings), classes by what occurs."""
    texts, findings = strip(
        [str(value) if value != -1 else "" for split in values for value in _to_list(values[split])]
    )
    labeled = np.array([bool(text) for text in texts], bool)
    numbers = np.full(len(texts), -1, np.int64)
    numbers[labeled], classes = to_indices([text for text in texts if text])
    ends = np.cumsum([len(column) for column in values.values()])
    labels = dict(zip(values, np.split(numbers, ends[:-1]), strict=True))
    return labels, classes, findings


def _to_list(values):
    return values.tolist() if isinstance(values, np.ndarray) else values


def scatter(rows: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Returns int32 (count,) with `labels` at `rows` and 0 elsewhere."""
    scattered = np.zeros(count, np.int32)
    scattered[rows] = labels
    return scattered


def keep(source: Source, rows: np.ndarray) -> Source:
    """Returns the given rows of a source: the source itself if these are all of them."""
    return source if len(rows) == len(source) else Subset(source, rows)


def plain_labels(values):
    """Converts an Arrow column to what `index_labels` takes.

    Returns:
        int64 (N,), or a list of N texts; -1 or "" if a row has no label.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return pc.fill_null(values, "").to_pylist()
    return pc.fill_null(values.cast(pa.int64()), -1).to_numpy()


def plain_texts(values):
    """Converts an Arrow column of texts to N bytes, None for a row without one.

    Arrow does not look whether texts are UTF-8.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values.cast(pa.large_binary()).to_pylist()
