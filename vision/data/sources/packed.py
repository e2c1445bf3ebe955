"""`packed:DIR`: a pack, which is any source in a few large files with random access.

`python -m vision.data pack` writes it:

DIR/manifest.json                          what it was made from, and a SHA-256 of each other file
DIR/train.labels.npy                       int32 (N,)
DIR/train.names.csv.gz                     what the images were called: `packed_names.py`
DIR/train-00000-of-00012.array_record      serialized `tf.train.Example`s, one per image:
                                           "image/encoded" a file's bytes, "image/name" the
                                           original's name, "label"

With `--shard 3/16` each of 16 processes writes its share: files of records, train.labels-00003-of-
00016.npy and manifest-00003-of-00016.json. A folder with all of them reads like one pack.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vision.data.decode import UnreadableImage, decode
from vision.data.findings import Finding
from vision.data.identity import texts
from vision.data.packed_names import REPAIR, read_names
from vision.data.records import Records, bytes_of, parse_example
from vision.data.sources import Source
from vision.data.sources._shards import join, manifests_of
from vision.errors import UserError
from vision.support.arrays import read_npy
from vision.support.digest import sha256
from vision.support.reading import read_json
from vision.support.schema import FILE_NAME, NATURAL, check, damaged, filled

FORMAT = 1  # of the manifest; increased when older code would misread it
MANIFEST = "manifest.json"
FILE = {"file": FILE_NAME, "bytes": NATURAL, "sha256": str}
SHARD = FILE | {"images": NATURAL}
IMAGE = {"part": str, "index": NATURAL, "name": str, "reason": str}
REQUEST: dict[str, Any] = {"source": str, "fingerprint": str}
PART = {
    "labels": FILE,
    "shards": [SHARD],
    "class_counts": [NATURAL],
    "names?": FILE,
    "named?": bool,
}
SCHEMA: dict[str, Any] = {
    "request": REQUEST,
    "classes": filled(str),
    "parts": {str: PART},
    "unreadable": [IMAGE],
    "findings": [{"kind": str, "name": str, "detail?": str, "lost?": bool}],
}


class PackedSource:
    """A source over one part of a pack.

    Args:
        records: random access to the serialized examples.
        labels: int32 (N,).
        classes: names of the labels.
        title: prefix for images whose record is damaged: "pets/train" gives "pets/train[17]".
        findings: see `Source`.
        names: the files of their names, see `vision.data.packed_names`; () if there are none.
        named: whether they are divided by their names.
    """

    encoded = True
    bits = 0

    def __init__(
        self,
        records: Records,
        labels: np.ndarray,
        classes: Iterable[str],
        title: str,
        findings: Iterable[Finding],
        names: tuple[Path, ...] = (),
        named: bool = True,
    ):
        self.names = names
        self.named = named
        table = None if not names else read_names(names, len(labels))
        if table is not None and any(table.groups):
            self.group_names = texts(table.groups)
        self.records = records
        self.labels = labels
        self.classes = tuple(classes)
        self.title = title
        self.findings = tuple(findings)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        name, data = self._read(index)
        return {"image": decode(data, name=name, bits=self.bits), "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        """Returns the name that the image had in the source that was packed."""
        try:
            return self._read(index)[0]
        except UnreadableImage as error:
            return error.name

    def keys(self) -> list[str] | None:
        """Returns the images' names within the source that was packed: see `Source`."""
        table = None if not self.names else read_names(self.names, len(self.labels))
        return None if table is None or not any(table.names) else table.names

    def photos(self) -> list[str] | None:
        """Returns the photo that each object was cut out of; None for images as they are."""
        table = None if not self.names else read_names(self.names, len(self.labels))
        return None if table is None or not any(table.photos) else table.photos

    def file(self, index: int) -> bytes | None:
        return self._read(index)[1]

    def _read(self, index):
        """Returns (name, bytes) of an image."""
        record_name = f"{self.title}[{index}]"
        try:
            example = parse_example(self.records[index])
            name = bytes_of(example, "image/name").decode("utf-8", "surrogateescape")
            return name, bytes_of(example, "image/encoded")
        except IndexError:
            raise
        # array_record checks each record's hash; a record may also be no example at all
        except Exception as error:
            reason = "damaged record: python -m vision.data verify finds the file"
            raise UnreadableImage(reason, record_name) from error


def open(argument: str) -> dict[str, Source]:
    """Opens a pack.

    No record is read: labels are in files of their own, whose SHA-256 is checked. Of the records
    only the sizes of their files are; array_record checks a hash of each that it reads.

    Returns:
        {part: source}, the parts that the source had when it was packed.

    Raises:
        UserError: not a pack, an unfinished one, or one with a missing or truncated file.
    """
    directory = Path(argument).expanduser()
    manifest = read_manifest(directory)
    _check_sizes(directory, manifest)
    fields = ("kind", "name", "detail", "lost")
    findings = [
        Finding(**{key: value for key, value in finding.items() if key in fields})
        for finding in manifest["findings"]
    ]
    for image in manifest["unreadable"]:
        kind = "images could not be read when packed"
        findings.append(Finding(kind, image["name"], image["reason"], lost=True))
    sources: dict[str, Source] = {}
    for part, entry in manifest["parts"].items():
        sources[part] = _open_part(directory, part, entry, manifest, findings)
    return sources


def _open_part(directory, part, entry, manifest, findings):
    shards = entry["shards"]
    paths = [str(directory / shard["file"]) for shard in shards]
    records = Records(paths, [shard["images"] for shard in shards])
    for file in (*entry_files(entry, "labels"), *entry_files(entry, "names")):
        if sha256(directory / file["file"]) != file["sha256"]:
            reason = "its SHA-256 differs from the manifest's"
            raise damaged(directory / file["file"], reason, REPAIR)
    labels = _read_labels(directory, entry, len(records), manifest)
    title = f"{directory}/{part}"
    names = tuple(directory / file["file"] for file in entry_files(entry, "names"))
    named = entry.get("named", True)
    return PackedSource(records, labels, manifest["classes"], title, findings, names, named)


def _read_labels(directory, entry, count, manifest):
    """Returns int32 (count,), the labels of a part."""
    paths = [directory / file["file"] for file in entry_files(entry, "labels")]
    parts = [read_npy(path, REPAIR) for path in paths]
    path = paths[0]
    if any(part.ndim != 1 for part in parts):
        raise damaged(path, "it must have an integer for each image", REPAIR)
    labels = np.concatenate(parts)
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise damaged(path, f"it must have an integer for each of {count:,} images", REPAIR)
    classes = len(manifest["classes"])
    if count and not 0 <= labels.min() <= labels.max() < classes:
        raise damaged(path, f"its labels must be 0 to {classes - 1}", REPAIR)
    return labels


def _check_sizes(directory, manifest):
    for file in files_of(manifest):
        path = directory / file["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != file["bytes"]:
            problem = "is missing" if size is None else f"has {size:,} of {file['bytes']:,} bytes"
            raise UserError(f"{path} {problem}: {REPAIR}")


def read_manifest(directory: Path | str) -> dict:
    """Returns the manifest of a pack.

    Raises:
        UserError: there is none, or it is of another version.
    """
    path = Path(directory) / MANIFEST
    if not path.parent.is_dir():
        raise UserError(f"folder '{directory}' does not exist")
    if (path.parent / "progress.json").is_file() and not path.is_file():
        raise UserError(f"'{directory}' is not finished: repeat the pack command to continue")
    if not path.is_file() and manifests_of(path.parent):
        return join(path.parent, check_manifest)
    if not path.is_file():
        raise UserError(f"'{directory}' has no manifest.json")
    return check_manifest(path)


def check_manifest(path: Path) -> dict:
    """Returns the manifest in a file, of a pack or of a shard.

    Raises:
        UserError: it is damaged, or of another version.
    """
    remedy = "copy it again, or pack the data into a new folder"
    manifest = read_json(path, {"format": int}, remedy)
    if manifest["format"] != FORMAT:
        raise UserError(
            f"{path} has format {manifest['format']}, but this version reads {FORMAT}: "
            "pack the data again"
        )
    check(manifest, SCHEMA, path, remedy)
    if manifest.get("sha256", digest_of(manifest)) != digest_of(manifest):
        raise damaged(path, "its SHA-256 differs from the one recorded in it", remedy)
    return manifest


def digest_of(manifest: dict) -> str:
    """Returns the SHA-256 of a manifest's contents, in which it is kept."""
    contents = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def files_of(manifest: dict) -> list[dict]:
    """Returns [{"file", "bytes", "sha256", ...}] for all files of a pack."""
    return [
        file
        for part in manifest["parts"].values()
        for file in (
            *entry_files(part, "labels"),
            *entry_files(part, "names"),
            *part["shards"],
        )
    ]


def entry_files(part: dict, key: str) -> list[dict]:
    """Returns [{"file", "bytes", "sha256"}] of the labels or the names of a part of a manifest.

    A joined part has one of each shard, in order.
    """
    files = part.get(key, [])
    return files if isinstance(files, list) else [files]
