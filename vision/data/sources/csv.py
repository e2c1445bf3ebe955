"""`csv:FILE`: a table of images and their labels, with a header row.

    path,label,split            path,label,annotator        source,part,index,label
    a/1.jpg,cat,train           a/1.jpg,cat,anna            mnist5k,all,17,7
    a/2.jpg,dog,test            a/1.jpg,dog,bert            tfds:cifar10,train,4711,frog

A path is relative to the table's folder. `csv:FILE?path=filename&label=class` names other columns.
Instead of giving a path, a row may refer to an image of another source: what `KIND:ARGUMENT` opens
(paths in it as on the command line), the part of it ("all", "train", "val", "test") and the image's
position there, from 0. `split` is optional: train, val (or valid, validation) or test. With a
column `annotator`, every row is one person's vote and the majority labels the image. All other
columns are kept in `source.columns`.

Tables of other programs are read as they are: names without extension, Label Studio's addresses and
{"choices": [...]}, Roboflow's and Kaggle's columns of zeros and ones in place of `label`, Excel's
`sep=;`. `?folder=train` says where the files are, relative to the table. `?text=COLUMN` names the
images' captions; images without one are left out, or stay with `&empty=keep`.
"""

import collections
import contextvars
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vision.data.decode import decode, read_file
from vision.data.files import portable
from vision.data.findings import Finding
from vision.data.labels import check_spelling, require_two_classes, strip, to_indices
from vision.data.sources import CHANGES, Source, open_splits, parse, set_bits
from vision.data.sources._cells import check_joined
from vision.data.sources._paths import where
from vision.data.sources._table import Table
from vision.data.texts import with_texts
from vision.errors import UserError, check_choice

_opening: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar(
    "the tables being opened, which may refer to each other", default=()
)


class CsvSource:
    """A source over image files and images of other sources.

    Args:
        locations: for each image its file's path, or (number of the source, index).
        sources: the other sources.
        origins: (spec, part) of each of them.
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        findings: see `Source`.
        columns: {name: N texts}, the table's other columns.
        folder: the table's, which the files' keys are relative to.
    """

    def __init__(
        self,
        locations: Sequence[str | tuple[int, int]],
        sources: Sequence[Source],
        origins: Sequence[tuple[str, str]],
        labels: np.ndarray,
        classes: tuple[str, ...],
        findings: tuple[Finding, ...],
        columns: Mapping[str, tuple[str, ...]],
        folder: str = "",
    ):
        self.locations = locations
        self.sources = sources
        self.origins = origins
        self.labels = np.asarray(labels, np.int32)
        self.classes = classes
        self.findings = findings
        self.columns = columns
        self.folder = folder
        # Rows that only refer to images of other sources are divided as those are, by position.
        self.named = any(isinstance(location, str) for location in locations)
        self._bits = 0
        self.encoded = any(isinstance(p, str) or sources[p[0]].encoded for p in locations)

    @property
    def bits(self) -> int:
        """Significant bits of 16-bit images, those of other sources included."""
        return self._bits

    @bits.setter
    def bits(self, bits: int) -> None:
        self._bits = bits
        for source in self.sources:
            set_bits(source, bits)

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, index: int) -> dict:
        location = self.locations[index]
        if isinstance(location, str):
            image = decode(location, bits=self.bits)
        else:
            image = self.sources[location[0]][location[1]]["image"]
        return {"image": image, "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        location = self.locations[index]
        if isinstance(location, str):
            return location
        return self.sources[location[0]].name(location[1])

    def keys(self) -> list[str]:
        """Returns each file's path from the table's folder, or each reference: see `Source`."""
        keys = []
        for location in self.locations:
            if isinstance(location, str):
                keys.append(portable(os.path.relpath(location, self.folder or ".")))
            else:
                keys.append("{}/{}[{}]".format(*self.origins[location[0]], location[1]))
        return keys

    def column_names(self) -> tuple[str, ...]:
        """Returns the names of the columns that `column_values` reads."""
        return tuple(self.columns)

    def column_values(self, name: str) -> tuple[str, ...]:
        """Returns the values of a column, one for each image."""
        return self.columns[name]

    def file(self, index: int) -> bytes | None:
        location = self.locations[index]
        if isinstance(location, str):
            return read_file(location)
        return self.sources[location[0]].file(location[1])

    def origin(self, index: int) -> tuple[str, str, int] | None:
        """Returns (spec, part, index) of an image of another source; None for a file."""
        location = self.locations[index]
        if isinstance(location, str):
            return None
        return (*self.origins[location[0]], location[1])


def open(
    argument: str,
    *,
    path: str = "path",
    label: str = "label",
    folder: str = "",
    text: str = "",
    empty: str = "",
) -> dict[str, Source]:
    """Opens a table of images: UTF-8 or UTF-16, separated by commas, semicolons or tabs.

    Rows of one image must agree. If they repeat it, one is kept; if they give it different labels
    and have no annotators, none is; if they put it into several splits, test takes precedence over
    val and val over train, so that nothing is tested on training images. A tie of annotators goes
    to the label that comes first. All of this, missing files and rows without a label or an image
    are findings.

    Args:
        argument: the file.
        path: name of the column of paths.
        label: name of the column of labels.
        folder: the folder of the image files, relative to the table's.
        text: name of the column of captions; "" for none.
        empty: "keep" keeps the images whose caption is empty, for models that can do without.

    Returns:
        {"all": source}, or a dict with some of "train", "val", "test" if there is a column `split`.
        Classes are sorted by name, integers by value.

    Raises:
        UserError: no such file, not such a table, a column is missing, a row has an unknown split
            or an invalid reference, or fewer than two classes remain.
    """
    file = os.path.realpath(os.path.expanduser(argument))
    if file in _opening.get():
        raise UserError(f"csv:{argument} refers to itself in its column 'source'")
    token = _opening.set((*_opening.get(), file))
    try:
        splits = _open(Table(os.path.expanduser(argument), path, label, folder))
    finally:
        _opening.reset(token)
    if not text and empty:
        raise UserError(
            f"csv:{argument}: empty={empty} is for captions: name their column by ?text="
        )
    return _with_captions(splits, text, argument, empty) if text else splits


def _with_captions(splits, column, argument, empty):
    columns = next(iter(splits.values())).column_names()
    if column not in columns:
        names = ", ".join(map(repr, columns)) or "none"
        raise UserError(f"csv:{argument} has no caption column {column!r}; its columns: {names}")
    captions = {part: source.column_values(column) for part, source in splits.items()}
    return with_texts(splits, captions, f"csv:{argument}", empty)


class _Image(NamedTuple):
    """An image of the table: its location as in `CsvSource`, its label, split and first row."""

    location: str | tuple[int, int]
    label: str
    split: str
    row: int


def _open(table):
    rows, labels, findings = _group(table)
    references = {}
    images = _collect(table, rows, labels, references, findings)
    numbers, classes = to_indices([image.label for image in images])
    _check_files(table, rows, images)
    require_two_classes(table.name, classes, findings)
    spellings = check_spelling(*to_indices([text for text in labels if text]))
    joined = check_joined([image.label for image in images])
    findings = (*findings, *table.findings, *spellings, *joined)
    sources = [source for source, _ in references.values()]
    splits = {}
    for name in ("all", "train", "val", "test"):
        positions = [i for i, image in enumerate(images) if image.split == name]
        if positions:
            chosen = [images[i] for i in positions]
            columns = {
                column: tuple(table.rows[image.row][i] for image in chosen)
                for column, i in table.extra_columns.items()
            }
            splits[name] = CsvSource(
                [image.location for image in chosen],
                sources,
                tuple(references),
                numbers[positions],
                classes,
                findings,
                columns,
                table.folder,
            )
    return splits


def _collect(table, rows_by_image, labels, references, findings):
    """Returns an `_Image` for each image that exists and has one label.

    Adds to `references` the sources that rows refer to, as in `_resolve`, and to `findings`.
    """
    images = []
    for key, rows in rows_by_image.items():
        title = key if isinstance(key, str) else "{}/{}[{}]".format(*key)
        label, split, row_findings = _merge(table, labels, title, rows)
        findings += row_findings
        if label is None:
            continue
        if isinstance(key, str) and not os.path.isfile(key):
            kind = "files named in the table do not exist"
            findings.append(Finding(kind, key, table.line(rows[0]), lost=True))
            continue
        location = key if isinstance(key, str) else _resolve(table, key, rows[0], references)
        images.append(_Image(location, label, split, rows[0]))
    return images


def _group(table):
    """Returns ({an image's key: its rows}, the rows' labels, findings)."""
    choices = table.labels()
    labels, findings = strip([own[0] if len(own) == 1 else "" for own in choices])
    images = collections.defaultdict(list)
    unlabeled = []
    for row, label in enumerate(labels):
        key = table.key(row)
        if key is None:
            findings.append(Finding("rows name no image", table.line(row), lost=True))
        elif label:
            images[key].append(row)
        elif len(choices[row]) > 1:
            names = ", ".join(map(repr, choices[row]))
            kind = "rows have several labels and are left out"
            findings.append(Finding(kind, table.line(row), names, lost=True))
        else:
            unlabeled.append((row, key))
    for row, key in unlabeled:  # another annotator's row may have one
        findings.append(Finding("rows have no label", table.line(row), lost=key not in images))
    table.check_text(images)
    return images, labels, findings


def _check_files(table, rows_by_image, images):
    """Raises `UserError` if there are files in the table, but none exists."""
    files = [key for key in rows_by_image if isinstance(key, str)]
    if images or not files:
        return
    name = os.path.relpath(files[0], table.folder or ".")
    folder = where(name, table.folder or ".")
    advice = f". {folder}/{name} does: add ?folder={folder}" if folder else ""
    raise UserError(
        f"none of the {len(files):,} files in {table.name} exist, beginning with {files[0]}{advice}"
    )


def _merge(table, labels, title, rows):
    """Returns (label, split, findings) of an image from all of its rows.

    The label is None if the rows disagree.
    """
    if len(rows) == 1:
        return labels[rows[0]], table.split(rows[0]), []
    findings = []
    votes = {}
    for row in rows:
        first = votes.setdefault((table.cell(row, "annotator"), labels[row]), row)
        if first != row:
            findings.append(
                Finding("rows repeat an image", table.line(row), f"as {table.line(first)}")
            )
    splits = dict.fromkeys(table.split(row) for row in rows)
    split = next(name for name in ("all", "test", "val", "train") if name in splits)
    if len(splits) > 1:
        detail = f"{', '.join(splits)}: kept in {split}"
        findings.append(Finding("images are in several splits", title, detail))
    counts = collections.Counter(label for _, label in votes)
    leading = [label for label, n in counts.items() if n == max(counts.values())]
    if len(counts) > 1 and "annotator" not in table:
        detail = ", ".join(map(repr, counts))
        kind = "images have several labels and are left out"
        findings.append(Finding(kind, title, detail, lost=True))
        return None, split, findings
    if len(leading) > 1:
        detail = f"{', '.join(map(repr, leading))}: labeled {leading[0]!r}"
        findings.append(Finding("images have tied votes", title, detail))
    return leading[0], split, findings


def _resolve(table, key, row, references):
    """Returns (number of the source, index) of an image of another source.

    Args:
        table: the table.
        key: (source, part, index) as in the row.
        row: the row, for messages.
        references: {(spec, part): (source, its number)} of the sources opened so far; gets the
            source if it is a new one.
    """
    spec, part, index = key
    if (spec, part) not in references:
        if changes := [name for name in parse(spec)[2] if name in CHANGES]:
            raise UserError(
                f"{table.line(row)}: {spec!r} must not set {changes[0]!r}: "
                "an index refers to the source without it"
            )
        try:
            parts = open_splits(spec)
        except UserError as error:
            raise UserError(f"{table.line(row)}: {error}") from error
        check_choice(f"{table.line(row)}: part", part, tuple(parts))
        references[spec, part] = parts[part], len(references)
    source, number = references[spec, part]
    if not (index.isascii() and index.isdecimal() and int(index) < len(source)):
        raise UserError(
            f"{table.line(row)}: index must be 0 to {len(source) - 1} for {part} of {spec}, "
            f"got {index!r}"
        )
    return number, int(index)
