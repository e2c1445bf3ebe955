"""Groups of images that must not be divided: `?group=` of any source.

    csv:table.csv?group=patient           a column: of csv, parquet, hf; a field of arrays
    folder:photos?group=folder:1          the first folder below the class's: photos/CLASS/GROUP/...
    folder:photos?group=folder:-1         the innermost folder
    folder:photos?group=regex:(\\d+)_      the first group of a regular expression on the path

A path is relative to the source's root, which for csv is the table's folder. Its folders are
counted below the one that is called like the image's class, if there is one, else from the root.
The same name is the same group in every class. In a pattern, write \\x26 for "&".
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.data.findings import Finding
from vision.data.identity import base_of, has_names, keys_of, texts
from vision.errors import UserError

ALONE = "images belong to no group and are split one by one"


def set_groups(parts: Mapping[str, Any], value: str, spec: str) -> None:
    """Sets `group_names`, texts, object (N,), of the sources in {part: source}; "" for no group.

    Args:
        parts: what the source's kind opened.
        value: the value of `?group=`.
        spec: the source's name, for messages.

    Raises:
        UserError: there is no such column or folder, the pattern is wrong, or no image has a group.
    """
    is_alone = True
    for part, source in parts.items():
        base, _ = base_of(source)
        if getattr(base, "group_names", None) is None:
            base.group_names = texts(_groups(base, part, value, spec))
        is_alone &= not any(base.group_names)
    if is_alone:
        raise UserError(f"'{spec}': group={value} finds no group for any image: {_examples(parts)}")


def group_findings(parts: Mapping[str, Any]) -> list[Finding]:
    """Returns findings for images without a group, and for groups that the source's splits divide.

    Args:
        parts: {part or split: source}.
    """
    splits: dict[str, list[str]] = {}
    alone = []
    for part, source in parts.items():
        base, rows = base_of(source)
        groups = getattr(base, "group_names", None)
        if groups is None:
            continue
        for group in dict.fromkeys(groups[rows]):
            if group:
                splits.setdefault(group, []).append(part)
        alone += [Finding(ALONE, source.name(int(i))) for i in np.flatnonzero(groups[rows] == "")]
    kind = "groups are in several splits of the source, which inflates test results"
    divided = [
        Finding(kind, group, ", ".join(names)) for group, names in splits.items() if names[1:]
    ]
    return [*divided, *alone]


def _groups(base, part, value, spec):
    method, _, argument = value.partition(":")
    if method not in ("folder", "regex"):
        return _column(base, value, spec)
    if not has_names(base):
        raise UserError(
            f"'{spec}': group={value} needs paths, but the images of this source have none: "
            "give the name of a column"
        )
    paths = keys_of(base, part)
    if method == "regex":
        return _matches(paths, argument, spec)
    if not re.fullmatch(r"-?[1-9]\d{0,3}", argument):
        raise UserError(
            f"'{spec}': group=folder:N needs a number: 1 is the first folder below the class "
            "folder, -1 the innermost"
        )
    labels = base.labels
    return [
        folder_of(path, base.classes[label], int(argument))
        for path, label in zip(paths, labels, strict=True)
    ]


def folder_of(path: str, class_name: str, number: int) -> str:
    """Returns a folder of a path, counted from 1 below the class's, or from -1 at its end.

    It is "" if there is no such folder.
    """
    folders = path.split("/")[:-1]
    if class_name in folders:
        folders = folders[folders.index(class_name) + 1 :]
    index = number - 1 if number > 0 else number
    return folders[index] if -len(folders) <= index < len(folders) else ""


def _matches(paths, pattern, spec):
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"'{spec}': {pattern!r} is not a regular expression: {error}") from error
    if not compiled.groups:
        raise UserError(
            f"'{spec}': the pattern {pattern!r} needs parentheses around the part that names the "
            "group"
        )
    matches = map(compiled.search, paths)
    return [(match.group(1) or "") if match else "" for match in matches]


def _column(base, name, spec):
    columns = base.column_names() if hasattr(base, "column_names") else ()
    if name not in columns:
        has = f"its columns are {', '.join(columns)}" if columns else "it has no columns"
        if isinstance(getattr(base, "fields", None), dict):
            has += "; in a .npz file they are arrays named fields_NAME"
        raise UserError(
            f"'{spec}': group={name} is not a column of this source ({has}): "
            "give one of them, folder:1, or regex:PATTERN with parentheses"
        )
    return ["" if value is None else str(value).strip() for value in base.column_values(name)]


def _examples(parts: Mapping[str, Any]) -> str:
    part, source = next(iter(parts.items()))
    return f"a path is {keys_of(source, part)[0]}" if len(source) else "it is empty"
