"""What is done about the findings: a table of the images that are left, with their labels, which
`csv:` reads.

The images themselves, and the source, stay as they are.
"""

import collections
import csv
import dataclasses
import os
import pathlib

from vision.audit import duplicates, quality
from vision.audit.issues import COLUMNS
from vision.data.sources import CHANGES, parse
from vision.data.tables import read_rows
from vision.errors import UserError, check_choice
from vision.support.files import replacing

KINDS = (*quality.KINDS, *duplicates.KINDS, "outlier", "wrong_label")
COLUMNS_OF_FILES = ("path",)
COLUMNS_ELSEWHERE = ("source", "part", "index")


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is to be done with one image.

    Attributes:
        row: its place in `Images`.
        kind: of the finding that it is for.
        action: "drop" or "relabel:CLASS".
    """

    row: int
    kind: str
    action: str


def settle(images, issues, kinds):
    """Returns the issues with the actions that `--apply` takes, and "" for no action.

    Kinds that config.audit.apply does not name have none. Labels of test that look wrong have none
    either: a test set that was corrected by what a model believes no longer measures it, so they
    are for a person to look at.

    Args:
        images: `vision.audit.images.Images`.
        issues: list of `Issue`.
        kinds: config.audit.apply.

    Raises:
        UserError: it names an unknown kind.
    """
    chosen = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    for kind in chosen:
        check_choice("audit.apply", kind, KINDS)

    def action(issue):
        of_test = issue.row >= 0 and images.split_of(issue.row) == "test"
        return (
            issue.action
            if issue.kind in chosen and not (issue.kind == "wrong_label" and of_test)
            else ""
        )

    return [dataclasses.replace(issue, action=action(issue)) for issue in issues]


def left_to_a_person(images, issues):
    """Returns how many issues `settle` leaves without an action because they are of test's
    labels."""
    wrong = [issue for issue in issues if issue.kind == "wrong_label" and issue.action]
    return sum(images.split_of(issue.row) == "test" for issue in wrong)


def decisions(issues):
    """Returns the `Decision`s of issues that have an action."""
    return [
        Decision(issue.row, issue.kind, issue.action)
        for issue in issues
        if issue.action and issue.row >= 0
    ]


def read_decisions(path, images):
    """Reads an issues.csv whose column `action` a person may have edited.

    Returns:
        List of `Decision`.

    Raises:
        UserError: no such file or no such table, an action that is none, or a file that is not
            among the images.
    """
    header, rows, lines = read_rows(path)
    if missing := [
        column for column in ("file", "split", "kind", "action") if column not in header
    ]:
        raise UserError(
            f"{path} has no column {missing[0]!r}: --decisions takes an issues.csv ({', '.join(COLUMNS)})"
        )
    found = []
    known = _by_name(images)
    for line, row in zip(lines, (dict(zip(header, row, strict=True)) for row in rows), strict=True):
        action = row["action"].strip()
        where = f"{path}, line {line}"
        if not action or not row["split"]:  # for what is no image, nothing can be done
            continue
        _check_action(action, images, where)
        places = known.get((row["file"], row["split"]))
        if not places:
            raise UserError(
                f"{where}: {row['file']} is no image of {row['split']}. "
                "The decisions must be of the same --data, with the same seed and fractions"
            )
        found += [Decision(place, row["kind"], action) for place in places]
    return found


def _check_action(action, images, where):
    verb, _, name = action.partition(":")
    if action != "drop" and (verb != "relabel" or not name):
        raise UserError(
            f"{where}: action is {action!r}, which must be empty, drop or relabel:CLASS"
        )
    if name:
        check_choice(f"{where}: the class", name, images.classes)


def _by_name(images):
    """Returns {(name, split): rows}."""
    found = collections.defaultdict(list)
    for row in range(len(images)):
        found[images.name(row), images.split_of(row)].append(row)
    return found


def apply(images, decided, path):
    """Writes the images that are left as a table that `csv:` reads, and returns what was done, in
    sentences.

    Of several decisions on one image, to drop it comes first, then a right label, then a spelling;
    a right label is itself spelled as the spelling decisions say.

    Args:
        images: `vision.audit.images.Images`.
        decided: list of `Decision`.
        path: the file, such as DIR/cleaned.csv.

    Raises:
        UserError: a split would be left without any image, or only one class would.
    """
    dropped = {}
    labels = {}
    renames = [d for d in decided if d.kind == "spelling" and d.action != "drop"]
    spelled = {images.class_of(d.row): d.action.partition(":")[2] for d in renames}
    for decision in sorted(decided, key=lambda d: d.kind == "spelling"):
        if decision.action == "drop":
            dropped.setdefault(decision.row, decision.kind)
        else:
            name = decision.action.partition(":")[2]
            labels.setdefault(decision.row, (spelled.get(name, name), decision.kind))
    left = [row for row in range(len(images)) if row not in dropped]
    for split in images.names:
        if not any(images.split_of(row) == split for row in left):
            raise UserError(
                f"--apply would leave no image in {split}: edit the actions in issues.csv, use --decisions"
            )
    if len({labels.get(row, (images.class_of(row),))[0] for row in left}) < 2:
        raise UserError(
            "--apply would leave a single class: edit the actions in issues.csv, and use --decisions"
        )
    _write(images, left, labels, pathlib.Path(path))
    relabeled = collections.Counter(kind for row, (_, kind) in labels.items() if row not in dropped)
    said = [
        f"{len(left):,} of {len(images):,} images are left; train on them with data.source=csv:{path}"
    ]
    for verb, counts in (
        ("dropped", collections.Counter(dropped.values())),
        ("relabeled", relabeled),
    ):
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in counts.most_common())
        said.append(f"{verb}: {counts.total():,}" + (f" ({kinds})" if kinds else ""))
    return said


def _write(images, rows, labels, path):
    origins = [images.origin(row) for row in rows]
    files = [isinstance(origin, str) for origin in origins]
    columns = (COLUMNS_OF_FILES if any(files) else ()) + (() if all(files) else COLUMNS_ELSEWHERE)
    with replacing(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*columns, "label", "split"))
        for row, origin in zip(rows, origins, strict=True):
            if isinstance(origin, str):
                values = {"path": _path(origin, path)}
            else:
                spec, part, index = origin
                values = {"source": unchanged(spec), "part": part, "index": index}
            name = labels.get(row, (images.class_of(row),))[0]
            writer.writerow(
                (*(values.get(column, "") for column in columns), name, images.split_of(row))
            )


def _path(file, table):
    """Returns a file's name as the table has it: relative to it where both lie in one folder, so
    that both can move."""
    here = os.path.abspath(table.parent)
    file = os.path.abspath(file)
    common = os.path.commonpath([here, file])
    return os.path.relpath(file, here) if common in (here, os.path.dirname(here)) else file


def unchanged(spec):
    """Returns a source's name without what `vision.data.changes` did: the table has the labels as
    they were audited."""
    _, _, options = parse(spec)
    kept = "&".join(f"{name}={value}" for name, value in options.items() if name not in CHANGES)
    return spec if not options else spec.rpartition("?")[0] + (f"?{kept}" if kept else "")
