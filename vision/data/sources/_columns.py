"""What tables of images share: which column is meant, and numbers for the labels of all splits
together."""

import numpy as np

from vision.data.findings import Finding
from vision.data.labels import check_spelling, strip, to_indices
from vision.errors import UserError

IMAGES = ("image", "img")
LABELS = ("label", "labels", "class", "target", "fine_label")


def choose(option, given, fitting, usual, title):
    """Returns the name of the column that holds the images, or the labels.

    Args:
        option: what sets it: "image" or "label".
        given: the user's choice; "" = none.
        fitting: names of the columns whose type would do.
        usual: names that such a column usually has, the likeliest first.
        title: the source's name, for messages.

    Raises:
        UserError: the given one does not fit, or none or several do and none has a usual name.
    """
    likely = [given] if given else [name for name in usual if name in fitting] or list(fitting)
    if len(likely) > 1 and likely[0] not in usual:
        raise UserError(
            f"{title} has several columns that may be its {option}: set ?{option}= to {_either(fitting)}"
        )
    if not likely or likely[0] not in fitting:
        found = f"column {given!r} that holds {option}s" if given else f"column of {option}s"
        raise UserError(
            f"{title} has no {found}"
            + (f": set ?{option}= to {_either(fitting)}" if fitting else "")
        )
    return likely[0]


def index_labels(values, names, title):
    """Numbers the labels of all splits.

    Args:
        values: {split: N integers as an array, or N texts as a list}, where -1 or "" = no label.
        names: names of the integers; empty where the table does not tell.
        title: function of (split, row) that names an image in findings.

    Returns:
        ({split: (rows, labels)}, classes, findings): the rows that have a label, int64 (n,), and
        theirs, int32 (n,). A split without any label, such as some tests, is left out. Without
        `names` the classes are the values that
        occur: whole numbers in their order, texts sorted.
    """
    findings = []
    labels = {}
    if names and not any(isinstance(numbers, list) for numbers in values.values()):
        labels = {split: np.asarray(numbers, np.int64) for split, numbers in values.items()}
        classes = tuple(names)
        whole = np.concatenate(list(labels.values()))
    else:
        texts = [
            str(value) if value != -1 else "" for split in values for value in _plain(values[split])
        ]
        texts, findings = strip(texts)
        known = np.array([bool(text) for text in texts], bool)
        whole = np.full(len(texts), -1, np.int64)
        whole[known], classes = to_indices([text for text in texts if text])
        ends = np.cumsum([len(numbers) for numbers in values.values()])
        labels = dict(zip(values, np.split(whole, ends[:-1]), strict=True))
    findings += check_spelling(whole[(whole >= 0) & (whole < len(classes))], classes)
    kept = {}
    for split, numbers in labels.items():
        rows = np.flatnonzero((numbers >= 0) & (numbers < len(classes)))
        if not len(rows) and len(labels) > 1:
            findings.append(
                Finding(
                    "splits have no labels, and are left out", split, f"{len(numbers):,} images"
                )
            )
            continue
        kept[split] = rows, numbers[rows].astype(np.int32)
        for row in np.setdiff1d(np.arange(len(numbers)), rows):
            detail = f"{numbers[row]}, of {len(classes)} classes" if numbers[row] >= 0 else ""
            findings.append(
                Finding("images have no label", title(split, int(row)), detail, lost=True)
            )
    return kept, classes, findings


def _plain(values):
    return values.tolist() if isinstance(values, np.ndarray) else values


def _either(names):
    return " or ".join(names)


def plain_labels(values):
    """Turns an Arrow column into what `index_labels` takes: int64 (N,), or N texts; -1 or "" where
    a row has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return pc.fill_null(values, "").to_pylist()
    return pc.fill_null(values.cast(pa.int64()), -1).to_numpy()
