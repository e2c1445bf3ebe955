"""Applies the actions: a table of the remaining images with their labels, which `csv:` reads.

The images themselves, and the source, are not changed.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence

from vision.audit import duplicates, quality
from vision.audit.images import Images
from vision.audit.issues import COLUMNS, Issue
from vision.data.sources import CHANGES, compose, parse
from vision.data.tables import read_rows
from vision.errors import UserError, check_choice
from vision.support.cells import Writer
from vision.support.files import replacing

KINDS = (*quality.KINDS, *duplicates.KINDS, "outlier", "wrong_label")
COLUMNS_OF_FILES = ("path",)
COLUMNS_ELSEWHERE = ("source", "part", "index")


@dataclasses.dataclass(frozen=True)
class Decision:
    """An action on one image.

    Attributes:
        row: row of the image in `Images`.
        kind: kind of the issue that it is for.
        action: "drop" or "relabel:CLASS".
    """

    row: int
    kind: str
    action: str


def parse_kinds(text: str) -> list[str]:
    """Returns the kinds of issues that config.audit.apply, such as "blank,duplicate", names.

    Raises:
        UserError: a kind is unknown.
    """
    kinds = [kind.strip() for kind in text.split(",") if kind.strip()]
    for kind in kinds:
        check_choice("audit.apply", kind, KINDS)
    return kinds


def settle(images: Images, issues: Iterable[Issue], kinds: str) -> list[Issue]:
    """Returns the issues with the actions that `--apply` takes, or "" for no action.

    Only kinds in config.audit.apply have an action. Labels of test that look wrong have none
    either: a test set that was corrected by the predictions of a model no longer measures it, so
    they are left for a person.

    Args:
        images: the images.
        issues: issues with suggested actions.
        kinds: config.audit.apply.

    Raises:
        UserError: a kind is unknown.
    """
    applied_kinds = parse_kinds(kinds)

    def action(issue):
        is_test = issue.row >= 0 and images.split_of(issue.row) == "test"
        if issue.kind not in applied_kinds or (issue.kind == "wrong_label" and is_test):
            return ""
        return issue.action

    return [dataclasses.replace(issue, action=action(issue)) for issue in issues]


def count_left_for_a_person(images: Images, issues: Iterable[Issue]) -> int:
    """Returns the number of issues without an action because they are about labels of test."""
    wrong = [issue for issue in issues if issue.kind == "wrong_label" and issue.action]
    return sum(images.split_of(issue.row) == "test" for issue in wrong)


def decisions(issues: Iterable[Issue]) -> list[Decision]:
    """Returns the decisions in issues that have an action."""
    return [
        Decision(issue.row, issue.kind, issue.action)
        for issue in issues
        if issue.action and issue.row >= 0
    ]


def read_decisions(path: pathlib.Path | str, images: Images) -> list[Decision]:
    """Reads an issues.csv whose column `action` a person may have edited.

    Raises:
        UserError: the file is missing or not such a table, an action is invalid, or a file is not
            among the images.
    """
    header, rows, lines = read_rows(path, any_bytes=True)
    needed = ("file", "split", "kind", "action")
    if missing := [column for column in needed if column not in header]:
        raise UserError(
            f"{path} has no column {missing[0]!r}: --decisions takes an issues.csv "
            f"({', '.join(COLUMNS)})"
        )
    result = []
    rows_by_name = _rows_by_name(images)
    for line, cells in zip(lines, rows, strict=True):
        record = dict(zip(header, cells, strict=True))
        action = record["action"].strip()
        place = f"{path}, line {line}"
        if not action or not record["split"]:  # only images can be acted on
            continue
        _check_action(action, images, place)
        image_rows = rows_by_name.get((record["file"], record["split"]))
        if not image_rows:
            raise UserError(
                f"{place}: {record['file']} is not an image of {record['split']}. "
                "The decisions must be for the same --data, split with the same seed and fractions"
            )
        result += [Decision(row, record["kind"], action) for row in image_rows]
    return result


def _check_action(action, images, place):
    verb, _, name = action.partition(":")
    if action != "drop" and (verb != "relabel" or not name):
        raise UserError(
            f"{place}: action is {action!r}, which must be empty, drop or relabel:CLASS"
        )
    if name:
        check_choice(f"{place}: the class", name, images.classes)


def _rows_by_name(images):
    """Returns {(name, split): rows}."""
    rows = collections.defaultdict(list)
    for row in range(len(images)):
        rows[images.name(row), images.split_of(row)].append(row)
    return rows


def apply(images: Images, to_apply: Sequence[Decision], path: pathlib.Path | str) -> list[str]:
    """Writes the remaining images as a table that `csv:` reads.

    Of several decisions on one image, dropping it takes precedence, then a correct label, then a
    spelling; a correct label is itself spelled according to the spelling decisions.

    Args:
        images: the images.
        to_apply: the decisions.
        path: file to write, such as DIR/cleaned.csv.

    Returns:
        Sentences about what was done.

    Raises:
        UserError: a split would have no images left, or only one class would be left.
    """
    dropped, labels = _resolve(images, to_apply)
    remaining = [row for row in range(len(images)) if row not in dropped]
    for split in images.names:
        if not any(images.split_of(row) == split for row in remaining):
            raise UserError(
                f"--apply would leave no image in {split}: edit the actions in issues.csv, "
                "and use --decisions"
            )
    if len({labels.get(row, (images.class_of(row),))[0] for row in remaining}) < 2:
        raise UserError(
            "--apply would leave a single class: edit the actions in issues.csv, "
            "and use --decisions"
        )
    _write(images, remaining, labels, pathlib.Path(path))
    relabeled = [kind for row, (_, kind) in labels.items() if row not in dropped]
    return [
        f"{len(remaining):,} of {len(images):,} images are left; "
        f"train on them with data.source=csv:{path}",
        f"dropped: {_count_kinds(dropped.values())}",
        f"relabeled: {_count_kinds(relabeled)}",
        *_vanished(images, remaining, labels),
    ]


def _vanished(images, remaining, labels):
    """Returns a sentence on the classes that train has no image of any more, if there are any."""

    def classes(rows):
        rows = (row for row in rows if images.split_of(row) == "train")
        return {labels.get(row, (images.class_of(row),))[0] for row in rows}

    names = sorted(classes(range(len(images))) - classes(remaining))
    return [f"classes left without images in train: {', '.join(names)}"] if names else []


def _resolve(images, to_apply):
    """Returns ({dropped row: kind}, {relabeled row: (class, kind)})."""
    dropped = {}
    labels = {}
    renames = [d for d in to_apply if d.kind == "spelling" and d.action != "drop"]
    spelling = {images.class_of(d.row): d.action.partition(":")[2] for d in renames}
    for decision in sorted(to_apply, key=lambda d: d.kind == "spelling"):
        if decision.action == "drop":
            dropped.setdefault(decision.row, decision.kind)
        else:
            name = decision.action.partition(":")[2]
            labels.setdefault(decision.row, (spelling.get(name, name), decision.kind))
    return dropped, labels


def _count_kinds(kinds):
    """Returns "3 (2 blank, 1 duplicate)"."""
    counts = collections.Counter(kinds)
    details = ", ".join(f"{n:,} {kind}" for kind, n in counts.most_common())
    return f"{counts.total():,} ({details})" if details else f"{counts.total():,}"


def _write(images, rows, labels, path):
    origins = [images.origin(row) for row in rows]
    is_file = [isinstance(origin, str) for origin in origins]
    columns = ("label", "split")
    if not all(is_file):
        columns = (*COLUMNS_ELSEWHERE, *columns)
    if any(is_file):
        columns = (*COLUMNS_OF_FILES, *columns)
    with replacing(path, newline="") as file:
        writer = Writer(file)
        writer.writerow(columns)
        for row, origin in zip(rows, origins, strict=True):
            if isinstance(origin, str):
                cells = {"path": _path(origin, path)}
            else:
                spec, part, index = origin
                cells = {"source": unchanged(spec), "part": part, "index": index}
            label = labels.get(row, (images.class_of(row),))[0]
            cells |= {"label": label, "split": images.split_of(row)}
            writer.writerow([cells.get(column, "") for column in columns])


def _path(file, table):
    """Returns a file's path for the table: relative if both are in one folder, which may move."""
    folder = os.path.abspath(table.parent)
    file = os.path.abspath(file)
    common = os.path.commonpath([folder, file])
    return os.path.relpath(file, folder) if common in (folder, os.path.dirname(folder)) else file


def unchanged(spec: str) -> str:
    """Returns a source's name without the options of `vision.data.changes`.

    The table has the labels as they were audited, so the changes must not be applied again.
    """
    kind, argument, options = parse(spec)
    kept = {name: value for name, value in options.items() if name not in CHANGES}
    return compose(kind, argument, kept)
