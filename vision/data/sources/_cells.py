"""How tables write labels: a text, JSON, or a column of zeros and ones for each class."""

import collections
import json
from collections.abc import Collection, Mapping, Sequence

from vision.data.findings import Finding

_ABSENT = {"0", "0.0", "", "false", "no"}
_PRESENT = {"1", "1.0", "true", "yes"}


def labels_of(text: str) -> list[str]:
    """Returns the labels in a cell: its text, or those in Label Studio's {"choices": [...]}."""
    if text.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return [text]
        if isinstance(value, dict):
            value = value.get("choices", value)
        if isinstance(value, list) and all(isinstance(choice, str) for choice in value):
            return value
    return [text]


def class_columns(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the names of the columns of zeros and ones, if they are classes; otherwise [].

    They are if there are at least two, and most rows have a one in exactly one of them.

    Args:
        columns: {name: the texts of all rows}.
    """
    texts = {name: {cell.strip().lower() for cell in cells} for name, cells in columns.items()}
    names = [
        name for name, cells in texts.items() if cells <= _ABSENT | _PRESENT and cells & _PRESENT
    ]
    if len(names) < 2:
        return []
    rows = list(zip(*(columns[name] for name in names), strict=True))
    clear = sum(len(one_hot(row, names)) == 1 for row in rows)
    return names if 2 * clear > len(rows) else []


def one_hot(cells: Sequence[str], names: Sequence[str]) -> list[str]:
    """Returns the names of those cells that are ones."""
    return [n for n, cell in zip(names, cells, strict=True) if cell.strip().lower() in _PRESENT]


def check_joined(labels: Collection[str]) -> list[Finding]:
    """Returns a finding for each label that joins several others, such as "cough|fever".

    Args:
        labels: the label of each image.
    """
    counts = collections.Counter(labels)
    kind = "labels look like several labels joined, and each combination is its own class"
    findings = []
    for label, count in counts.items():
        for separator in "|;,":
            parts = [part.strip() for part in label.split(separator)]
            if len(parts) > 1 and all(part in counts for part in parts):
                findings.append(Finding(kind, repr(label), f"{count:,} times"))
    return findings
