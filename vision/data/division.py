"""The division of a run's images into splits, as the run stores it: exactly the images that it had.

splits.csv.gz    a gzipped table of text, `split,name,label`, a row for each image of each split, in
                 the order in which they are numbered; before data.limit, data.labels and
                 ?imbalance= draw from them. A name is what `vision.data.identity` calls the image.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vision.data.identity import keys_of, texts
from vision.data.sources import Source
from vision.support.compressed_table import read_table, write_table
from vision.support.schema import NATURAL

FILE = "splits.csv.gz"
NEW = "splits.new.csv.gz"  # takes the place of `FILE` once data.json describes it
NAMED = 3  # images that a message names
HEADER = ["split", "name", "label"]
# what data.json and bundle.json say about it, as `vision.support.schema` checks it
DIGESTS = {str: {"images": NATURAL, "sha256": str}}


class Members(NamedTuple):
    """The images of a split: their names and their classes' names, texts, object (N,)."""

    names: np.ndarray
    labels: np.ndarray

    def digest(self) -> str:
        """Returns the SHA-256 of names and labels, in their order, in hexadecimal."""
        text = "\n".join(f"{name}\0{label}" for name, label in zip(*self, strict=True))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class Task(NamedTuple):
    """What one run of several that go on from each other adds.

    Attributes:
        source: the name of its images.
        classes: its new classes.
        test: number of its test images, which follow those of the tasks before it.
    """

    source: str
    classes: tuple[str, ...]
    test: int


@dataclasses.dataclass
class Changes:
    """How data differ from those that a run had: {split: names}, and for labels also the change."""

    missing: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    new: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    relabeled: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.new or self.relabeled)

    def joined(self, other: "Changes") -> "Changes":
        """Returns the changes of both."""
        return Changes(
            self.missing | other.missing, self.new | other.new, self.relabeled | other.relabeled
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns {"missing", "new" and "relabeled": {split: number of images}}."""
        return {
            field: {split: len(names) for split, names in splits.items()}
            for field, splits in vars(self).items()
        }

    def lines(self) -> list[str]:
        """Returns a line for each kind and split: the number of images and the first names."""
        kinds = {
            "missing": self.missing,
            "new": self.new,
            "labeled differently": self.relabeled,
        }
        lines = []
        for kind, splits in kinds.items():
            for split, names in splits.items():
                more = ", ..." if len(names) > NAMED else ""
                lines.append(f"{len(names):,} of {split} {kind}: {', '.join(names[:NAMED])}{more}")
        return lines


def joined(parts: Iterable[Members]) -> Members:
    """Returns the images of several splits, one after the other."""
    return Members(*map(np.concatenate, zip(*parts, strict=True)))


Division = dict[str, Members]  # {split: its images}


def division_of(splits: Mapping[str, Source], opened: Mapping[str, Source]) -> Division:
    """Returns what the images of some splits are called.

    Args:
        splits: {split: source}, each the whole or a subset of a part of `opened`, or of all.
        opened: {part: source} of the source that was divided.
    """
    names = {}
    for part, source in opened.items():
        names[id(source)] = part
    division = {}
    for split, source in splits.items():
        classes = texts(source.classes)
        below = source
        while id(below) not in names and hasattr(below, "source"):
            below = below.source
        part = names.get(id(below), split)
        division[split] = Members(keys_of(source, part), classes[source.labels])
    return division


def without(division: Division, parts: Iterable[Members]) -> Division:
    """Returns a division without some images; a split that has no others is left out."""
    names: set[str] = set().union(*(members.names for members in parts))
    left = {}
    for split, members in division.items():
        is_left = np.array([name not in names for name in members.names], bool)
        if is_left.any():
            left[split] = Members(*(column[is_left] for column in members))
    return left


def describe(division: Division) -> dict[str, dict[str, Any]]:
    """Returns {split: {"images": count, "sha256": digest}}, as data.json has it."""
    return {
        split: {"images": len(members.names), "sha256": members.digest()}
        for split, members in division.items()
    }


def write_division(path: pathlib.Path | str, division: Division) -> None:
    """Writes splits.csv.gz, in full or not at all."""
    rows = (
        (split, *row) for split, members in division.items() for row in zip(*members, strict=True)
    )
    write_table(path, HEADER, rows)


def read_division(path: pathlib.Path | str) -> Division:
    """Reads splits.csv.gz.

    Raises:
        UserError: it is missing or damaged.
    """
    rows: dict[str, list[tuple[str, str]]] = {}
    for split, name, label in read_table(path, HEADER, "copy it again from the original run"):
        rows.setdefault(split, []).append((name, label))
    return {
        split: Members(*(texts(column) for column in zip(*pairs, strict=True)))
        for split, pairs in rows.items()
    }
