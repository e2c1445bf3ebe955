"""`wds:PATTERN`: tar files as WebDataset writes them, read at random without unpacking them.

    000017.jpg  000017.txt  000017.cls         an image, its caption, its class
    000017.png  000017.json                    {"caption": ..., "label": ...}

Members whose names agree up to the first dot of their last part belong together. PATTERN is a file,
a folder, or a pattern such as 'wds:data/train-*.tar'; {000..012} stands for a range of numbers. A
word in the name of a file or of its folder gives the split, as in `parquet:`. `.cls` is a number or
a name, beside the first file a `classes.txt` may name the numbers. `.txt` is the caption; without
one, `caption` or `text` of the `.json` is, and without a `.cls` its `label`, `cls` or `class`.
`?label=KEY` and `?text=KEY` name other keys of the `.json`. Compressed archives must be unpacked.
"""

import builtins
import collections
import os
import re
import tarfile
from typing import NamedTuple

import numpy as np

from vision.data.decode import UnreadableImage, decode
from vision.data.files import portable, split_files
from vision.data.findings import Finding
from vision.data.formats import image_extensions
from vision.data.labels import require_two_classes
from vision.data.sources import Source
from vision.data.sources._columns import index_labels, keep, scatter
from vision.data.texts import with_texts
from vision.errors import UserError, brief
from vision.support.reading import parse_json, parsing, read_text
from vision.support.schema import Damaged

LABELS = ("label", "cls", "class")
TEXTS = ("caption", "text")
BESIDE = ("txt", "cls", "json")
FORMS = "wds:FILE.tar, wds:FOLDER or 'wds:FOLDER/*.tar'"
LARGEST = 1 << 20  # bytes of a member that is not an image
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class _Member(NamedTuple):
    """An image inside an archive: its file, its name there, where its bytes begin, their number."""

    file: int
    name: str
    offset: int
    size: int


class WdsSource:
    """A source over the members of tar files.

    Args:
        files: names of the archives.
        members: the images, in order.
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        findings: see `Source`.
        base: the folder that the images' keys are relative to.
    """

    encoded = True
    bits = 0

    def __init__(
        self,
        files: list[str],
        members: list[_Member],
        labels: np.ndarray,
        classes: tuple[str, ...],
        findings: tuple[Finding, ...],
        base: str = "",
    ):
        self.files = files
        self.members = members
        self.labels = labels
        self.classes = classes
        self.findings = findings
        self.base = base

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> dict:
        image = decode(self.file(index), name=self.name(index), bits=self.bits)
        return {"image": image, "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        member = self.members[index]
        return f"{self.files[member.file]}/{member.name}"

    def keys(self) -> list[str]:
        """Returns each image's archive, from the folder of all, and its name there."""
        files = [portable(os.path.relpath(file, self.base or ".")) for file in self.files]
        return [f"{files[member.file]}/{member.name}" for member in self.members]

    def file(self, index: int) -> bytes:
        member = self.members[index]
        try:
            with builtins.open(self.files[member.file], "rb") as archive:
                archive.seek(member.offset)
                data = archive.read(member.size)
        except OSError as error:
            raise UnreadableImage(brief(error), self.name(index)) from error
        if len(data) < member.size:
            raise UnreadableImage("its archive is cut off", self.name(index))
        return data


def open(argument: str, *, label: str = "", text: str = "") -> dict[str, Source]:
    """Opens the archives and reads all of their members but the images.

    Args:
        argument: a file, a folder or a pattern.
        label: key of the `.json` that has the label; "" for the `.cls`, or the usual keys.
        text: key of the `.json` that has the caption; "" for the `.txt`, or the usual keys.

    Returns:
        {"all": source} if the files' names give no split; else a dict with some of "train", "val",
        "test". The sources have captions if any image has one.

    Raises:
        UserError: no such files, an archive is damaged or compressed, or there are fewer than two
            classes.
    """
    title = f"wds:{argument}"
    findings: list[Finding] = []
    parts = {
        split: _Part(files, (label, text), findings)
        for split, files in split_files(_ranges(argument), ".tar", FORMS).items()
    }
    files = [file for part in parts.values() for file in part.files]
    names = _class_names(os.path.dirname(files[0]))
    values = {split: _as_numbers(part.labels, names) for split, part in parts.items()}
    kept, classes, label_findings = index_labels(
        values, names, lambda split, row: parts[split].title(row)
    )
    findings += label_findings
    require_two_classes(title, classes, findings)
    sources = {
        split: _source(parts[split], rows, labels, (classes, tuple(findings), files))
        for split, (rows, labels) in kept.items()
    }
    if not any(caption is not None for part in parts.values() for caption in part.captions):
        if text:
            raise UserError(f"{title}: no .json has the caption key {text!r}")
        return sources
    return with_texts(sources, {split: parts[split].captions for split in sources}, title)


def _source(part, rows, labels, shared):
    """Returns the source of a part's labeled images.

    Args:
        part: a `_Part`.
        rows: int64 (n,), its labeled images.
        labels: int32 (n,).
        shared: (classes, findings, files) of all parts.
    """
    classes, findings, files = shared
    base = os.path.commonpath([os.path.dirname(file) or "." for file in files])
    every_label = scatter(rows, labels, len(part.members))
    return keep(WdsSource(part.files, part.members, every_label, classes, findings, base), rows)


class _Part:
    """The images of some archives, with what stands beside them.

    Args:
        files: names of the archives.
        keys: the options `label` and `text` of `open`.
        findings: are added to.

    Attributes:
        files: names of the archives.
        members: the images.
        labels: their labels, texts; "" for none.
        captions: bytes or texts; None for none.
    """

    def __init__(self, files, keys, findings):
        self.files = files
        self._keys = keys
        self._findings = findings
        self.members = []
        self.labels = []
        self.captions = []
        for number, file in enumerate(files):
            with parsing(file, "a tar file", "unpack a compressed one: gunzip FILE.tar.gz"):
                samples = self._read(number, file)
            for sample in samples.values():
                self._add(sample, file)

    def title(self, row):
        """Returns what `WdsSource.name` returns, before there is a source."""
        member = self.members[row]
        return f"{self.files[member.file]}/{member.name}"

    def _read(self, number, file):
        """Returns {key: {extension: a `_Member` or bytes}} of an archive."""
        samples = collections.defaultdict(dict)
        with tarfile.open(file, "r:") as archive:
            for info in archive:
                folder, _, last = info.name.rpartition("/")
                key, _, extension = last.partition(".")
                extension = extension.lower()
                if not info.isreg() or not key:
                    continue
                sample = samples[f"{folder}/{key}" if folder else key]
                if f".{extension}".endswith(image_extensions()):
                    if "image" in sample:
                        kind = "images have the same name as an earlier one, which is used"
                        self._findings.append(Finding(kind, f"{file}/{info.name}", lost=True))
                        continue
                    sample["image"] = _Member(number, info.name, info.offset_data, info.size)
                elif extension in BESIDE and info.size > LARGEST:
                    kind = "captions and labels are larger than a MiB and are not read"
                    self._findings.append(Finding(kind, f"{file}/{info.name}"))
                elif extension in BESIDE:
                    sample[extension] = archive.extractfile(info).read()
        return samples

    def _add(self, sample, file):
        if "image" not in sample:
            if sample:
                kind = "captions and labels have no matching image"
                self._findings.append(Finding(kind, file))
            return
        member = sample["image"]
        more = self._json(sample.get("json"), f"{file}/{member.name}")
        label_key, text_key = self._keys
        label = _first(more, (label_key,) if label_key else LABELS)
        if not label_key and "cls" in sample:
            label = sample["cls"].decode("utf-8", "replace")
        caption = _first(more, (text_key,) if text_key else TEXTS)
        if not text_key and "txt" in sample:
            caption = sample["txt"]
        self.members.append(member)
        self.labels.append("" if label is None else str(label).strip())
        self.captions.append(caption)

    def _json(self, data, name):
        if data is None:
            return {}
        try:
            return parse_json(data, dict, name)
        except Damaged as error:
            self._findings.append(Finding("members are not JSON objects", name, str(error)))
            return {}


def _first(values, keys):
    return next((values[key] for key in keys if values.get(key) is not None), None)


def _as_numbers(labels, names):
    """Returns labels as integers, -1 for none, if a file names the numbers; else the texts."""
    if not names:
        return labels
    return np.array([int(x) if re.fullmatch(r"\d{1,9}", x) else -1 for x in labels], np.int64)


def _class_names(folder):
    file = os.path.join(folder, "classes.txt")
    if not os.path.isfile(file):
        return ()
    return tuple(line.strip() for line in read_text(file).splitlines() if line.strip())


def _ranges(argument):
    """Returns the names that a pattern with a range of numbers stands for, or the pattern."""
    match = RANGE.search(argument)
    if not match:
        return [argument]
    first, last = match.groups()
    expanded: list[str] = []
    for number in range(int(first), int(last) + 1):
        file = f"{argument[: match.start()]}{number:0{len(first)}}{argument[match.end() :]}"
        if not os.path.isfile(os.path.expanduser(file)):
            raise UserError(f"there is no file {file}, which {argument} includes")
        expanded.append(file)
    return expanded
