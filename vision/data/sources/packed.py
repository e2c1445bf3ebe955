"""`packed:DIR`: what `python -m vision.data pack` has written: any source, in a few large files
with random access.

DIR/manifest.json                          what it was made of, and a SHA-256 of each of the other
                                           files
DIR/train.labels.npy                       int32 (N,)
DIR/train-00000-of-00012.array_record      serialized `tf.train.Example`s, one an image:
                                           "image/encoded" a file's bytes, "image/name" the
                                           original's, "label"
"""

import json
from pathlib import Path

import numpy as np

from vision.data.decode import UnreadableImage, decode
from vision.data.findings import Finding
from vision.data.sources._records import Records, parse_example
from vision.errors import UserError

FORMAT = 1  # of the manifest; raised where older code would read it wrongly
MANIFEST = "manifest.json"


class PackedSource:
    """A source over one part of a pack.

    Args:
        records: random access to the serialized examples.
        labels: int32 (N,).
        classes: names of the labels.
        title: what an image is called whose record is damaged: "pets/train" gives "pets/train[17]".
        findings: see `Source`.
    """

    encoded = True

    def __init__(self, records, labels, classes, title, findings):
        self.records = records
        self.labels = labels
        self.classes = tuple(classes)
        self.title = title
        self.findings = tuple(findings)

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        example = self._example(index)
        image = decode(example["image/encoded"].bytes_list.value[0], name=_name(example))
        return {"image": image, "label": int(self.labels[index])}

    def name(self, index):
        """Returns what the image was called in the source that was packed."""
        try:
            return _name(self._example(index))
        except UnreadableImage as error:
            return error.name

    def file(self, index):
        return self._example(index)["image/encoded"].bytes_list.value[0]

    def _example(self, index):
        try:
            return parse_example(self.records[index])
        except RuntimeError as error:  # array_record checks each record's hash
            reason = "damaged record: python -m vision.data verify names the file"
            raise UnreadableImage(reason, f"{self.title}[{index}]") from error


def _name(example):
    return example["image/name"].bytes_list.value[0].decode("utf-8", "surrogateescape")


def open(argument):
    """Opens a pack. No record is read: labels are in a file of their own, and of the shards only
    the size is checked.

    Returns:
        {part: source}, the parts that the source had when it was packed.

    Raises:
        UserError: no pack, an unfinished one, or one with a file missing or cut short.
    """
    directory = Path(argument).expanduser()
    manifest = read_manifest(directory)
    for file, size in ((f["file"], f["bytes"]) for f in files_of(manifest)):
        path = directory / file
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found:,} bytes of {size:,}"
            raise UserError(
                f"{path} {what}: copy it again, or give the pack command again, which mends it"
            )
    findings = [Finding(**finding) for finding in manifest["findings"]]
    for image in manifest["unreadable"]:
        findings.append(
            Finding(
                "images could not be read when packed", image["name"], image["reason"], lost=True
            )
        )
    sources = {}
    for part, entry in manifest["parts"].items():
        shards = entry["shards"]
        records = Records(
            [str(directory / s["file"]) for s in shards], [s["images"] for s in shards]
        )
        labels = np.load(directory / entry["labels"]["file"])
        sources[part] = PackedSource(
            records, labels, manifest["classes"], f"{directory}/{part}", findings
        )
    return sources


def read_manifest(directory):
    """Returns the manifest of a pack as a dict.

    Raises:
        UserError: there is none, or it is of a later version.
    """
    path = Path(directory) / MANIFEST
    if not path.is_file():
        unfinished = (path.parent / "progress.json").is_file()
        why = (
            "is not finished: give the pack command again, it goes on"
            if unfinished
            else "has no manifest.json"
        )
        raise UserError(
            f"'{directory}' {why}" if path.parent.is_dir() else f"there is no folder '{directory}'"
        )
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no manifest of a pack: {error!r}") from error
    if version != FORMAT:
        raise UserError(
            f"{path} is of format {version}, and this version reads {FORMAT}: pack the data again"
        )
    return manifest


def files_of(manifest):
    """Returns [{"file", "bytes", "sha256", ...}] of all files of a pack."""
    return [
        file for part in manifest["parts"].values() for file in (part["labels"], *part["shards"])
    ]
