"""The splits of a run once more: exactly the images that it had, whatever has happened to the data.

What is missing is left out, what is new is left out or joins, and both are reported.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vision.data.classes import in_order
from vision.data.division import (
    FILE,
    NEW,
    Changes,
    Division,
    Members,
    Task,
    division_of,
    joined,
    read_division,
    without,
)
from vision.data.findings import Finding
from vision.data.groups import group_findings
from vision.data.identity import base_of, has_names, keys_of, texts
from vision.data.sources import Source
from vision.data.splits import Joined, make_splits
from vision.data.subset import Subset
from vision.errors import UserError

SPLITS = ("train", "val", "test")
FORGOTTEN = "forgotten"  # in a division, images that are never used again
MEMORY = "memory"  # what a training that goes on from a run keeps of that one's training images


@dataclasses.dataclass(frozen=True)
class Past:
    """The division of a run, which is read only if the data differ from it.

    Attributes:
        run: directory of the run, or of its bundle.
        digests: {split: {"images", "sha256"}} of its data.json or bundle.json.
        joins: whether images that the run did not have join it, as in a training that may go on
            with other data. Otherwise they are left out.
        strict: whether any difference is an error.
        tasks: what the run has learned, one after the other; () if it has learned all at once.
        classes: the run's classes, if they must come first: its source may have grown since.
        divides_new: whether new images are divided into all splits.
    """

    run: pathlib.Path
    digests: Mapping[str, Mapping[str, Any]]
    joins: bool = False
    strict: bool = False
    tasks: tuple[Task, ...] = ()
    classes: tuple[str, ...] = ()
    divides_new: ClassVar[bool] = False

    def agrees(self, division: Division) -> bool:
        """Returns whether a division of today's data is the run's own."""
        if [len(m.names) for m in division.values()] != [
            self.digests.get(split, {}).get("images") for split in division
        ]:
            return False
        return all(m.digest() == self.digests[split]["sha256"] for split, m in division.items())

    def read(self) -> Division:
        """Returns the run's division; raises `UserError` if its file is missing or damaged."""
        for name in (FILE, NEW):
            if name == NEW and not (self.run / NEW).is_file():  # left by a kill, if at all
                break
            division = read_division(self.run / name)
            if self._is_described(division):
                return division
        raise UserError(
            f"{self.run / FILE} does not match the JSON file next to it: copy it again from the "
            "original run"
        )

    def divide(
        self, fresh: Division, opened: Mapping[str, Source], names: Collection[str]
    ) -> tuple[dict[str, Source], Division, Changes, tuple[Task, ...]]:
        """Gives images the splits that the run had them in.

        Args:
            fresh: today's division of the same source; {} if it cannot be divided.
            opened: {part: source}, all images that are there.
            names: the splits to recall.

        Returns:
            (splits, division, changes, tasks): see `split_as_before` and `Data`.
        """
        past = self.read()
        stored = {name: members for name, members in past.items() if name in names}
        forgotten = past.get(FORGOTTEN)
        if forgotten is None:
            return *split_as_before(stored, fresh, opened, self.joins), self.tasks
        fresh = without(fresh, [forgotten])
        splits, division, changes = split_as_before(stored, fresh, opened, self.joins)
        return splits, division | {FORGOTTEN: forgotten}, changes, self.tasks

    def _is_described(self, division):
        return all(
            split in division and division[split].digest() == entry["sha256"]
            for split, entry in self.digests.items()
        )


class Recalled(Subset):
    """A split as a run had it, over the images that are there now.

    Images that are missing keep their number, so that whatever draws from the split draws the same
    images; `without_missing` then leaves them out.

    Args:
        source: all images that are there.
        indices: int64 (N,), positions in `source`; -1 for a missing image.
        labels: int32 (N,).
    """

    def __init__(self, source: Source, indices: np.ndarray, labels: np.ndarray):
        super().__init__(source, indices)
        self.labels = labels


def resembles(past: Past, opened: Mapping[str, Source]) -> bool:
    """Whether a source has most images of a run, by their names and labels.

    So has a pack of them, a copy, or the folder in another place. False if its images have no names
    of their own.

    Args:
        past: the division of the run.
        opened: {part: source}.
    """
    if not all(has_names(base_of(source)[0]) for source in opened.values()):
        return False
    now = {
        pair
        for members in division_of(opened, opened).values()
        for pair in zip(*members, strict=True)
    }
    stored = {
        pair
        for split, members in past.read().items()
        if split in (*SPLITS, MEMORY, FORGOTTEN)
        for pair in zip(*members, strict=True)
    }
    return 2 * len(stored & now) > len(stored)


def without_missing(split: Source) -> Source:
    """Returns a split, which may be drawn from a `Recalled` one, without its missing images."""
    recalled, rows = _recalled_below(split)
    if recalled is None:
        return split
    present = recalled.indices[rows] >= 0
    return split if present.all() else Subset(split, np.flatnonzero(present))


def rows_in_division(split: Source) -> np.ndarray:
    """Returns the place of each image of a split in the division that it was recalled from.

    Places in the split itself, int64 (N,), if nothing was drawn from it and nothing is missing.
    """
    recalled, rows = _recalled_below(split)
    return np.arange(len(split)) if recalled is None else rows


def _recalled_below(split: Source) -> tuple[Recalled | None, np.ndarray]:
    """Returns (the recalled split that a split is drawn from, or None; the rows drawn)."""
    rows = np.arange(len(split))
    below: Any = split
    while not isinstance(below, Recalled):
        if not hasattr(below, "source"):
            return None, rows
        rows = below.indices[rows] if hasattr(below, "indices") else rows
        below = below.source
    return below, rows


def split_as_before(
    past: Division,
    fresh: Division,
    opened: Mapping[str, Source],
    joins: bool,
) -> tuple[dict[str, Source], Division, Changes]:
    """Gives images the splits that a run had them in.

    Args:
        past: the run's division.
        fresh: today's division of the same source, which says where new images go; {} if it cannot
            be divided.
        opened: {part: source}, all images that are there.
        joins: whether new images join the splits.

    Returns:
        (splits, division, changes): {split: source}; the run's division, with the images that join
        it; and how the data differ.
    """
    everything = Joined(list(opened.values()))
    places = places_of(opened)
    numbers = {name: i for i, name in enumerate(everything.classes)}
    changes = Changes()
    new = _new_images(past, fresh, places)
    splits: dict[str, Source] = {}
    division = {}
    for split, members in past.items():
        if split in new:
            changes.new[split] = new[split].names.tolist()
        if joins and split in new:
            members = joined([members, new[split]])
        indices = np.array([places.get(name, -1) for name in members.names], np.int64)
        labels, members = _labels(split, members, indices, everything, numbers, changes)
        division[split] = members
        splits[split] = _narrow(Recalled(everything, indices, labels), opened)
    if "val" in past and np.array_equal(past["val"].names, past["test"].names):
        splits["val"] = splits["test"]
    return splits, division, changes


def places_of(opened: Mapping[str, Source]) -> dict[str, int]:
    """Returns {name: place} of all images of a source, one part after the other."""
    now = division_of(opened, opened)
    names = np.concatenate([members.names for members in now.values()])
    return {name: i for i, name in reversed(list(enumerate(names)))}


def _new_images(past, fresh, places):
    """Returns {split: members} of the images that a run did not have, by the split they belong to.

    If training images are missing, a new one may be one of them under another name, so all new ones
    belong to train; in the same way, none belongs to test if images of val are missing.
    """
    past_names = set().union(*(members.names for members in past.values()))
    names: dict[str, list[Members]] = {}
    gaps = [
        split
        for split, members in past.items()
        if not all(name in places for name in members.names)
    ]
    order = [split for split in past if split != MEMORY]  # which nothing joins
    for split, members in fresh.items():
        is_new = np.array([name not in past_names for name in members.names], bool)
        if is_new.any():
            near = ["train" if name == MEMORY else name for name in (split, *gaps)]
            split = min(near, key=order.index)
            names.setdefault(split, []).append(Members(*(column[is_new] for column in members)))
    return {split: joined(parts) for split, parts in names.items()}


def _labels(split, members, indices, everything, numbers, changes):
    """Returns (int32 (N,) labels of today, or the run's if missing; the members with them)."""
    past = np.array([numbers.get(label, -1) for label in members.labels], np.int32)
    labels = np.where(indices >= 0, everything.labels[indices], np.maximum(past, 0))
    missing = indices < 0
    if missing.any():
        changes.missing[split] = members.names[missing].tolist()
    differs = np.flatnonzero(~missing & (labels != past))
    if not len(differs):
        return labels.astype(np.int32), members
    classes = texts(everything.classes)
    texts_now = members.labels.copy()
    texts_now[differs] = classes[labels[differs]]
    changes.relabeled[split] = [
        f"{members.names[i]} ({members.labels[i]!r} then, {texts_now[i]!r} now)" for i in differs
    ]
    return labels.astype(np.int32), Members(members.names, texts_now)


def _narrow(recalled, opened):
    """Returns a split over the one part that all of its images are in, as a fresh division does."""
    start = 0
    indices = recalled.indices
    for source in opened.values():
        stop = start + len(source)
        if len(indices) and indices.min() >= start and indices.max() < stop:
            return Recalled(source, indices - start, recalled.labels)
        start = stop
    return recalled


class Divided(NamedTuple):
    """A source's splits, in which missing images have their number still; see `Data`."""

    splits: dict[str, Source]
    findings: tuple[Finding, ...]
    division: Division
    changes: Changes
    tasks: tuple[Task, ...] = ()


def divide(
    c: ConfigDict, seed: int, opened: Mapping[str, Source], past: Past | None, record: bool = True
) -> Divided:
    """Divides a source, or gives its images the splits that a run had them in."""
    findings = tuple(
        dict.fromkeys(finding for source in opened.values() for finding in source.findings)
    )
    findings += tuple(group_findings(opened))
    if past is None and not record:
        splits = make_splits(opened, c.fractions, c.val_fraction, seed, c.split_by)
        return Divided(splits, findings, {}, Changes())
    if past is not None and past.classes:
        opened = in_order(opened, past.classes)
    splits = {}
    try:
        splits = make_splits(opened, c.fractions, c.val_fraction, seed, c.split_by)
    except UserError:  # too few are left to divide, but the run has divided them already
        if past is None or past.divides_new:
            raise
    return match_past(splits, findings, opened, past)


def images_of_past(
    c: ConfigDict, seed: int, opened: Mapping[str, Source], past: Past | None
) -> tuple[dict[str, Source], Changes]:
    """Returns all images of a source that a run had, in no splits, and how the data differ.

    Args:
        c: config.data.
        seed: seed of the division into splits.
        opened: {part: source}.
        past: the division of the run; None for all images.
    """
    if past is None:
        return dict(opened), Changes()
    divided = divide(c, seed, opened, past)
    if not divided.changes:
        return dict(opened), divided.changes
    names = set().union(*(members.names for members in divided.division.values()))
    parts: dict[str, Source] = {}
    for part, source in opened.items():
        is_recorded = np.array([name in names for name in keys_of(source, part)], bool)
        parts[part] = Subset(source, np.flatnonzero(is_recorded))
        if not is_recorded.any():
            raise UserError(f"none of the images of {past.run} is in {c.source} any more")
    return parts, divided.changes


def match_past(
    splits: dict[str, Source],
    findings: tuple[Finding, ...],
    opened: Mapping[str, Source],
    past: Past | None,
    names: tuple[str, ...] = (*SPLITS, MEMORY),
) -> Divided:
    """Returns a division of today's images, changed to that of a run if it differs."""
    division = division_of(splits, opened)
    # The tasks of a run are told by the places of its images in the division.
    is_unchanged = past is not None and not past.tasks and division and past.agrees(division)
    if past is None or is_unchanged:
        return Divided(splits, findings, division, Changes())
    splits, division, changes, tasks = past.divide(division, opened, names)
    if changes and past.strict:
        raise UserError(
            f"the data have changed since {past.run} began: {'; '.join(changes.lines())}.\n"
            "Restore them, or set data.allow_changes=true: then images that the run already had "
            "stay in their split"
        )
    return Divided(splits, findings, division, changes, tasks)


def leave_out_missing(
    splits: Mapping[str, Source], needed: Collection[str] | None = None
) -> dict[str, Source]:
    """Returns the splits without missing images.

    Args:
        splits: {split: source}.
        needed: those that must have an image left; None for all. Others that have none are left
            out.

    Raises:
        UserError: a split that is needed has no image left, or all have none.
    """
    left = {id(split): without_missing(split) for split in splits.values()}
    gone = [name for name, split in splits.items() if len(split) and not len(left[id(split)])]
    for name in gone:
        if needed is None or name in needed or len(gone) == len(splits):
            raise UserError(
                f"none of the {len(splits[name]):,} images of {name} exist any more: has the "
                "folder moved? Give the same source as when the run was trained"
            )
    return {name: left[id(split)] for name, split in splits.items() if name not in gone}
