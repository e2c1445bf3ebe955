"""`packed:DIR`: a pack, which is any source in a few large files with random access.

`python -m vision.data pack` writes it:

DIR/manifest.json                          what it was made from, and a SHA-256 of each other file
DIR/train.labels.npy                       int32 (N,)
DIR/train-00000-of-00012.array_record      serialized `tf.train.Example`s, one per image:
                                           "image/encoded" a file's bytes, "image/name" the
                                           original's name, "label"
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vision.data.decode import UnreadableImage, decode
from vision.data.findings import Finding
from vision.data.records import Records, parse_example
from vision.data.sources import Source
from vision.errors import UserError

FORMAT = 1  # of the manifest; increased when older code would misread it
MANIFEST = "manifest.json"


class PackedSource:
    """A source over one part of a pack.

    Args:
        records: random access to the serialized examples.
        labels: int32 (N,).
        classes: names of the labels.
        title: prefix for images whose record is damaged: "pets/train" gives "pets/train[17]".
        findings: see `Source`.
    """

    encoded = True

    def __init__(
        self,
        records: Records,
        labels: np.ndarray,
        classes: Iterable[str],
        title: str,
        findings: Iterable[Finding],
    ):
        self.records = records
        self.labels = labels
        self.classes = tuple(classes)
        self.title = title
        self.findings = tuple(findings)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        example = self._example(index)
        image = decode(example["image/encoded"].bytes_list.value[0], name=_name(example))
        return {"image": image, "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        """Returns the name that the image had in the source that was packed."""
        try:
            return _name(self._example(index))
        except UnreadableImage as error:
            return error.name

    def file(self, index: int) -> bytes | None:
        return self._example(index)["image/encoded"].bytes_list.value[0]

    def _example(self, index):
        try:
            return parse_example(self.records[index])
        except RuntimeError as error:  # array_record checks each record's hash
            reason = "damaged record: python -m vision.data verify names the file"
            raise UnreadableImage(reason, f"{self.title}[{index}]") from error


def _name(example):
    return example["image/name"].bytes_list.value[0].decode("utf-8", "surrogateescape")


def open(argument: str) -> dict[str, Source]:
    """Opens a pack.

    No record is read: labels are in a file of their own, and only the size of the shards is
    checked.

    Returns:
        {part: source}, the parts that the source had when it was packed.

    Raises:
        UserError: not a pack, an unfinished one, or one with a missing or truncated file.
    """
    directory = Path(argument).expanduser()
    manifest = read_manifest(directory)
    _check_sizes(directory, manifest)
    findings = [Finding(**finding) for finding in manifest["findings"]]
    for image in manifest["unreadable"]:
        kind = "images could not be read when packed"
        findings.append(Finding(kind, image["name"], image["reason"], lost=True))
    sources: dict[str, Source] = {}
    for part, entry in manifest["parts"].items():
        shards = entry["shards"]
        paths = [str(directory / shard["file"]) for shard in shards]
        records = Records(paths, [shard["images"] for shard in shards])
        labels = np.load(directory / entry["labels"]["file"])
        title = f"{directory}/{part}"
        sources[part] = PackedSource(records, labels, manifest["classes"], title, findings)
    return sources


def _check_sizes(directory, manifest):
    for file in files_of(manifest):
        path = directory / file["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != file["bytes"]:
            problem = "is missing" if size is None else f"has {size:,} bytes of {file['bytes']:,}"
            raise UserError(
                f"{path} {problem}: copy it again, or repeat the pack command, which repairs it"
            )


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
    if not path.is_file():
        raise UserError(f"'{directory}' has no manifest.json")
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the manifest of a pack: {error!r}") from error
    if version != FORMAT:
        raise UserError(
            f"{path} has format {version}, but this version reads {FORMAT}: pack the data again"
        )
    return manifest


def files_of(manifest: dict) -> list[dict]:
    """Returns [{"file", "bytes", "sha256", ...}] for all files of a pack."""
    return [
        file for part in manifest["parts"].values() for file in (part["labels"], *part["shards"])
    ]
