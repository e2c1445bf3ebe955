"""A collection: a directory of images to label, with tasks for annotation tools.

images/             the images as they came, named by their SHA-256, so that an image that is
                    collected twice is the same one for a source
images.csv          a row each: path, label (empty: for the answer), id and image (of the request),
                    predicted, confidence, entropy, reasons, version and label of another version
                    that disagrees
cvat.xml            "CVAT for images 1.1": a tag with the model's class for each image
label_studio.json   tasks of Label Studio with the model's class as prediction
label_studio.xml    the labeling interface for them
report.html         the pictures, by reason
collection.json     what this is, and the bundle's classes
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vision.errors import UserError
from vision.support.cells import Writer
from vision.support.digest import sha256
from vision.support.files import replacing, write_json
from vision.support.reading import read_json
from vision.support.schema import NATURAL, filled

FORMAT = 1
RECORD = "collection.json"
TABLE = "images.csv"
ANSWERS = ("labeled.csv", "labels.csv", "answers.json")
FILES = (TABLE, "cvat.xml", "label_studio.json", "label_studio.xml", "report.html", RECORD)
COLUMNS = (
    *("path", "label", "id", "image", "predicted", "confidence", "entropy", "reasons"),
    *("other_version", "other_label"),
)
ITEM = {
    **dict.fromkeys(("path", "request", "predicted", "other_version", "other_label"), str),
    "index": NATURAL,
    "confidence": float,
    "entropy": float,
    "reasons": [str],
}
SCHEMA = {
    "format": int,
    "classes": filled(str),
    "sha256": {str: str},
    "images": [ITEM],
}
SHORT = 16  # hexadecimal digits of an image's name

Key = tuple[str, int]  # identifier of a request, and an image's index in it


@dataclasses.dataclass(frozen=True)
class Item:
    """An image of a collection.

    Attributes:
        path: below the collection.
        request: identifier of its request.
        index: its index in the request.
        predicted: the model's class.
        confidence: its probability.
        entropy: of all probabilities, nats.
        reasons: why it was chosen.
        other_version, other_label: a version that disagrees and its class; "" if none does.
    """

    path: str
    request: str
    index: int
    predicted: str
    confidence: float
    entropy: float
    reasons: Sequence[str]
    other_version: str = ""
    other_label: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.rpartition("/")[2]


def check_place(out: pathlib.Path) -> None:
    """Raises `UserError` if a collection would replace anything but one without answers."""
    if out.exists() and not out.is_dir():
        raise UserError(f"cannot write to --out {out}: it is a file")
    if not out.exists() or not any(out.iterdir()):
        return
    try:
        record = read_json(out / RECORD, {"sha256": {str: str}})
    except UserError:
        raise UserError(
            f"--out {out} contains files and is not a collection: name another directory"
        ) from None
    answered = [name for name in ANSWERS if (out / name).exists()]
    if answered:
        raise UserError(f"--out {out} has answers already, {answered[0]}: name another directory")
    table = out / TABLE
    if table.is_file() and sha256(table) != record["sha256"].get(TABLE):
        raise UserError(
            f"--out {out}: {TABLE} was changed after it was written, perhaps by someone labeling: "
            "name another directory"
        )
    own_names = {*FILES, "images"}
    foreign = [path.name for path in out.iterdir() if path.name not in own_names]
    if foreign:
        raise UserError(
            f"--out {out} contains files that are not a collection's, such as {min(foreign)}: "
            "name another directory"
        )


def copy_image(file: pathlib.Path, directory: pathlib.Path) -> str:
    """Copies an image into a collection; returns its path there."""
    data = file.read_bytes()
    path = f"images/{name_of(data)}{file.suffix}"
    (directory / path).write_bytes(data)
    return path


def name_of(data: bytes) -> str:
    """Returns the name of an image's file in a collection, without a suffix."""
    return hashlib.sha256(data).hexdigest()[:SHORT]


def write_record(directory: pathlib.Path, items: Sequence[Item], record: Mapping[str, Any]) -> None:
    """Writes images.csv and collection.json.

    Args:
        directory: where to.
        items: the images.
        record: contents of collection.json besides its format, images and sums; has "classes".
    """
    with replacing(directory / TABLE, newline="") as file:
        writer = Writer(file)
        writer.writerow(COLUMNS)
        for item in items:
            writer.writerow(_row(item))
    contents = {"format": FORMAT, **record, "sha256": {TABLE: sha256(directory / TABLE)}}
    contents["images"] = [dataclasses.asdict(item) for item in items]
    write_json(directory / RECORD, contents)


def read_items(
    directory: pathlib.Path,
    flag: str = "--out",
    remedy: str = "collect again, into another directory",
) -> tuple[dict[str, Item], tuple[str, ...]]:
    """Returns ({name of a file: its `Item`}, the bundle's classes) of a collection.

    Args:
        directory: the collection's.
        flag: that names it, for messages.
        remedy: what to do if it is damaged.

    Raises:
        UserError: there is none, or it is of another format or damaged.
    """
    if not (directory / RECORD).is_file():
        raise UserError(
            f"{flag} {directory} is not a collection: give the directory that "
            "vision.monitoring.collect has written with --bundle and --log"
        )
    version = read_json(directory / RECORD, {"format": int}, remedy)["format"]
    if version != FORMAT:
        raise UserError(
            f"{directory / RECORD} has format {version}, but this version reads {FORMAT}: {remedy}"
        )
    record = read_json(directory / RECORD, SCHEMA, remedy)
    items = [Item(**{name: image[name] for name in ITEM}) for image in record["images"]]
    return {item.name: item for item in items}, tuple(record["classes"])


def _row(item):
    return [
        *(item.path, "", item.request, item.index, item.predicted),
        *(f"{item.confidence:.6f}", f"{item.entropy:.6f}", " ".join(item.reasons)),
        *(item.other_version, item.other_label),
    ]
