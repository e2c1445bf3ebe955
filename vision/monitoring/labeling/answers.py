"""What people have answered: tables, exports of CVAT and of Label Studio, back to a source.

Images are recognized by the name of their file, which annotation tools keep. An answer that several
people give counts once; if they differ, the one that more than half of them give.
"""

import collections
import dataclasses
import difflib
import json
import os
import pathlib
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vision.data.tables import read_rows
from vision.data.untrusted_xml import parse_xml
from vision.errors import UserError, brief
from vision.monitoring.labeling.collection import Item, read_items
from vision.monitoring.labeling.tasks import CONTROL
from vision.support.cells import Writer
from vision.support.files import filling, replacing, write_json
from vision.support.lock import locked_beside
from vision.support.reading import read_bytes, read_json

FORMAT = 1  # of answers.json
EXPORTS = "CSV, XML (CVAT for images 1.1) or JSON (Label Studio)"
IMAGE_COLUMNS = ("path", "image", "file", "filename")
LABEL_COLUMNS = ("label", CONTROL, "choice")

_CHOICES = {"choices?": [str]}
# a task of Label Studio, of either format; of an annotation, regions and relations may be results
TASK = {
    "data?": dict,
    "annotations?": (
        [{"was_cancelled?": (bool, None), "result?": ([{"value?": (_CHOICES, None)}], None)}],
        None,
    ),
    f"{CONTROL}?": (str, _CHOICES, [str], None),
}

Votes = dict[str, list[str]]  # {name of a file: an answer for each person}; [] if it was skipped


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to a collection.

    Attributes:
        labels: {name of a file: its label}, of all files that were read so far.
        skipped: images without an answer.
        ambiguous: images with several answers, of which none is given by more than half.
        unknown: images of the file that are not of the collection.
        confirmed: images whose label is the class that the model gave.
        new_classes: {class that the bundle does not have: images}.
        earlier: images whose answer is that of an earlier file.
        replaced: images that an earlier file answered too.
        changed: those of them that had another label.
    """

    labels: dict[str, str]
    skipped: int
    ambiguous: int
    unknown: int
    confirmed: int
    new_classes: dict[str, int]
    earlier: int = 0
    replaced: int = 0
    changed: int = 0


def read_answers(
    file: pathlib.Path,
    items: dict[str, Item],
    classes: Sequence[str],
    earlier: Mapping[str, str] | None = None,
) -> Answers:
    """Reads a file of answers, which add to those of earlier files or replace them.

    Args:
        file: a table, CVAT's or Label Studio's export.
        items: {name of a file: its `Item`}, the collection.
        classes: the bundle's.
        earlier: {name of a file: its label} of the files before.

    Raises:
        UserError: it is none of these, or answers nothing of the collection.
    """
    votes = _read(file)
    own = {name: given for name, given in votes.items() if name in items}
    if not own:
        raise UserError(
            f"--labeled {file} names none of the {len(items):,} images of this collection: give "
            "the --out whose tasks were labeled"
        )
    labels = {name: label for name, given in own.items() if (label := _majority(given))}
    if not labels:
        raise UserError(
            f"--labeled {file} has no answers: label the images, and export their annotations"
        )
    earlier = earlier or {}
    again = labels.keys() & earlier.keys()
    changed = sum(labels[name] != earlier[name] for name in again)
    labels = {**earlier, **labels}
    counts = collections.Counter(labels.values())
    return Answers(
        labels,
        skipped=sum(not own.get(name) and name not in labels for name in items),
        ambiguous=sum(bool(given) and name not in labels for name, given in own.items()),
        unknown=len(votes) - len(own),
        confirmed=sum(label == items[name].predicted for name, label in labels.items()),
        new_classes={name: n for name, n in counts.items() if name not in classes},
        earlier=len(earlier) - len(again),
        replaced=len(again),
        changed=changed,
    )


def take_back(file: pathlib.Path, out: pathlib.Path) -> list[str]:
    """Writes labeled.csv, labels.csv and answers.json into a collection.

    The answers of earlier files remain; an image that is answered again has its last answer.

    labeled.csv is what `csv:` opens, with the collection's other columns; labels.csv has "id",
    "label" and "image" of the requests, which the prediction log knows.

    Args:
        file: the answers.
        out: the collection.

    Returns:
        What was read, in a few lines.

    Raises:
        UserError: see `read_answers` and `read_items`; the labeled.csv that is there is damaged.
            What was there remains.
    """
    out = pathlib.Path(os.path.realpath(out))
    if not out.is_dir():
        read_items(out)  # says what is missing, and no directory is made for a lock
    # the lock of `collect`, which replaces the directory as a whole
    with locked_beside(out), filling(out) as directory:
        items, classes = read_items(out)
        answers = read_answers(file, items, classes, _earlier(out, items))
        with replacing(directory / "labeled.csv", newline="") as table:
            writer = Writer(table)
            writer.writerow(["path", "label", "predicted", "reasons", "id", "image"])
            for name, label in answers.labels.items():
                item = items[name]
                reasons = " ".join(item.reasons)
                writer.writerow(
                    [item.path, label, item.predicted, reasons, item.request, item.index]
                )
        with replacing(directory / "labels.csv", newline="") as table:
            writer = Writer(table)
            writer.writerow(["id", "label", "image"])
            for name, label in answers.labels.items():
                writer.writerow([items[name].request, label, items[name].index])
        record = {"format": FORMAT, "file": str(file), "labeled": len(answers.labels)}
        record |= {key: value for key, value in vars(answers).items() if key != "labels"}
        write_json(directory / "answers.json", record)
    return describe(answers, classes)


def describe(answers: Answers, classes: Sequence[str]) -> list[str]:
    """Returns the answers in a few lines."""
    lines = [
        f"{len(answers.labels):,} images labeled, {answers.confirmed:,} of them as the model said; "
        f"left out: {answers.skipped:,} skipped, {answers.ambiguous:,} ambiguous"
    ]
    if answers.earlier or answers.replaced:
        lines.append(
            f"{answers.earlier:,} of them are answers from an earlier file; {answers.replaced:,} "
            f"were answered again, {answers.changed:,} of these with another label"
        )
    if answers.unknown:
        lines.append(f"{answers.unknown:,} other images in the file are not in this collection")
    for name, count in answers.new_classes.items():
        near = difflib.get_close_matches(name.lower(), [c.lower() for c in classes], n=1)
        similar = [c for c in classes if near and c.lower() == near[0]]
        hint = f": is it {similar[0]!r}?" if similar else ""
        lines.append(f"new class {name!r}, {count:,} images{hint}")
    return lines


def _earlier(out, items):
    """Returns {name of a file: its label} of the answers that a collection has."""
    file = out / "labeled.csv"
    if not file.exists():
        return {}
    remedy = f"move {file} away, and read every answer file again"
    header, rows, _ = read_rows(file)
    if not {"path", "label"} <= set(header):
        raise UserError(f"{file} has no columns 'path' and 'label': {remedy}")
    places = header.index("path"), header.index("label")
    labels = {_name(row[places[0]]): row[places[1]].strip() for row in rows}
    labels = {name: label for name, label in labels.items() if label}
    if foreign := sorted(labels.keys() - items.keys()):
        raise UserError(f"{file} has {foreign[0]}, which is not in this collection: {remedy}")
    return labels


def _majority(given):
    """Returns the answer of more than half of the people; "" if there is none."""
    if not given:
        return ""
    label, count = collections.Counter(given).most_common(1)[0]
    return label if 2 * count > len(given) else ""


def _read(file: pathlib.Path) -> Votes:
    suffix = file.suffix.lower()
    if suffix == ".zip":
        raise UserError(f"--labeled {file} is an archive: unpack it, and give the file in it")
    if suffix == ".json":
        return _collect(_label_studio(read_json(file, [TASK], form="of Label Studio"), file))
    if suffix == ".xml":
        return _collect(_cvat(file))
    if suffix in (".csv", ".tsv", ".txt"):
        return _collect(_table(file))
    raise UserError(f"--labeled {file} must be {EXPORTS}, by its suffix")


def _collect(pairs: Iterable[tuple[str, list[str]]]) -> Votes:
    """Returns the votes of (address of an image, labels of one person).

    Several labels of one person are a vote for none of them.
    """
    votes: Votes = {}
    for address, labels in pairs:
        given = votes.setdefault(_name(address), [])
        distinct = sorted({label.strip() for label in labels if label.strip()})
        if distinct:
            given.append(distinct[0] if len(distinct) == 1 else "")
    return votes


def _name(address):
    """Returns the name of an image's file in a path, or an address of Label Studio."""
    address = address.replace("\\", "/")
    if "?d=" in address:
        address = urllib.parse.unquote(address.partition("?d=")[2])
    return address.rpartition("/")[2].strip()


def _cvat(file):
    try:
        tree = parse_xml(read_bytes(file))
    except ValueError as error:
        raise UserError(f"{file}: {brief(error)}") from error
    if tree.tag != "annotations" or tree.find("track") is not None:
        raise UserError(f"{file} is not a 'CVAT for images 1.1' export: export it in that format")
    for image in tree.iter("image"):
        yield image.get("name", ""), [tag.get("label", "") for tag in image.findall("tag")]


def _label_studio(tasks, file):
    """Yields (address, labels) of the formats JSON, a list of annotations for each task, and
    JSON_MIN, one task for each annotation."""
    for number, task in enumerate(tasks):
        data = task.get("data", task)
        if not isinstance(data.get("image"), str):
            raise UserError(
                f"{file}, task {number + 1} has no 'image': export the project as JSON, and give "
                "that file"
            )
        address = data["path"] if isinstance(data.get("path"), str) else data["image"]
        if data is task:
            yield address, _choices(task.get(CONTROL))
            continue
        yield address, []
        for annotation in task.get("annotations") or []:
            if not annotation.get("was_cancelled"):
                yield address, _results(annotation.get("result"))


def _results(results: list[dict[str, Any]] | None) -> list[str]:
    """Returns the labels of an annotation's results."""
    return [label for result in results or [] for label in _choices(result.get("value"))]


def _choices(value: Any) -> list[str]:
    """Returns the labels of a text, a list of texts, or {"choices": such a list}."""
    if isinstance(value, dict):
        value = value.get("choices")
    if isinstance(value, str):
        return [value]
    return [label for label in value if isinstance(label, str)] if isinstance(value, list) else []


def _table(file):
    header, rows, _ = read_rows(file)
    image = next((name for name in IMAGE_COLUMNS if name in header), None)
    label = next((name for name in LABEL_COLUMNS if name in header), None)
    if image is None or label is None:
        kind = "of images, 'path'," if image is None else "of answers, 'label',"
        raise UserError(
            f"--labeled {file} has no column {kind} in its first line: "
            f"{', '.join(map(repr, header))[:200]}"
        )
    places = header.index(image), header.index(label)
    for row in rows:
        cell = row[places[1]]
        if cell.lstrip().startswith("{"):  # several choices, as Label Studio writes them
            try:
                yield row[places[0]], _choices(json.loads(cell))
                continue
            except (ValueError, RecursionError):
                pass
        yield row[places[0]], [cell]
