"""`csv:FILE`: a table of images and their labels, with a header row.

    path,label,split            path,label,annotator        source,part,index,label
    a/1.jpg,cat,train           a/1.jpg,cat,anna            mnist5k,all,17,7
    a/2.jpg,dog,test            a/1.jpg,dog,bert            tfds:cifar10,train,4711,frog

A path is relative to the table's folder. `csv:FILE?path=filename&label=class` names other columns.
Instead of a path a row may name an image of another source: what `KIND:ARGUMENT` opens (paths in it
as on the command line), the part of it ("all", "train", "val", "test") and the image's position
there, from 0. `split` is optional: train, val (or valid, validation) or test. With a column
`annotator`, every row is one person's vote and the majority labels the image. All other columns are
kept in `source.columns`.
"""

import collections
import contextvars
import csv
import io
import os
import re
from pathlib import Path

import numpy as np

from vision.data.decode import decode, read_file
from vision.data.files import SPLITS
from vision.data.findings import Finding
from vision.data.labels import check_spelling, strip, to_indices
from vision.data.sources import CHANGES, open_splits, parse
from vision.errors import UserError, check_choice

_ELSEWHERE = ("source", "part", "index")  # the columns that name an image of another source
_opening = contextvars.ContextVar(
    "the tables that are being opened, which may name each other", default=()
)


class CsvSource:
    """A source over image files and images of other sources.

    Args:
        places: for each image its file's path, or (number of the source, index).
        sources: the other sources.
        origins: what each of these is, (spec, part).
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        findings: see `Source`.
        columns: {name: N texts}, the table's other columns.
    """

    def __init__(self, places, sources, origins, labels, classes, findings, columns):
        self.places = places
        self.sources = sources
        self.origins = origins
        self.labels = np.asarray(labels, np.int32)
        self.classes = classes
        self.findings = findings
        self.columns = columns
        self.encoded = any(isinstance(p, str) or sources[p[0]].encoded for p in places)

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        place = self.places[index]
        image = (
            decode(place) if isinstance(place, str) else self.sources[place[0]][place[1]]["image"]
        )
        return {"image": image, "label": int(self.labels[index])}

    def name(self, index):
        place = self.places[index]
        return place if isinstance(place, str) else self.sources[place[0]].name(place[1])

    def file(self, index):
        place = self.places[index]
        return read_file(place) if isinstance(place, str) else self.sources[place[0]].file(place[1])

    def origin(self, index):
        """Returns (spec, part, index) of an image of another source, as its row names it; None for
        a file."""
        place = self.places[index]
        return None if isinstance(place, str) else (*self.origins[place[0]], place[1])


def open(argument, *, path="path", label="label"):
    """Opens a table of images: UTF-8, separated by commas, semicolons or tabs.

    Rows of one image must agree. Where they repeat it, one is kept; where they give it different
    labels and have no annotators, none is; where they put it into several splits, test goes before
    val before train, so that nothing is tested on what was learned from. A tie of annotators goes
    to the label that comes first. All of this, files that do not exist and rows without a label or
    an image are findings.

    Args:
        argument: the file.
        path, label: names of these columns.

    Returns:
        {"all": source}, or a dict with some of "train", "val", "test" where there is a column
        `split`. Classes are sorted by name, whole numbers by value.

    Raises:
        UserError: no such file, it is no such table, a column is missing, a row has a wrong split
            or names no image of another source, or fewer than two classes are left.
    """
    file = os.path.realpath(os.path.expanduser(argument))
    if file in _opening.get():
        raise UserError(f"csv:{argument} names images of itself, in its column 'source'")
    token = _opening.set((*_opening.get(), file))
    try:
        return _open(_Table(os.path.expanduser(argument), path, label))
    finally:
        _opening.reset(token)


def _open(table):
    images, labels, findings = _group(table)
    # kept: (place, label, split, first row)
    kept = []
    sources = {}
    for key, rows in images.items():
        title = key if isinstance(key, str) else "{}/{}[{}]".format(*key)
        label, split, odd = _settle(table, labels, title, rows)
        findings += odd
        if label is None:
            continue
        if isinstance(key, str) and not os.path.isfile(key):
            findings.append(
                Finding(
                    "files named in the table do not exist", key, table.line(rows[0]), lost=True
                )
            )
            continue
        place = key if isinstance(key, str) else _find_elsewhere(table, key, rows[0], sources)
        kept.append((place, label, split, rows[0]))
    numbers, classes = to_indices([label for _, label, _, _ in kept])
    if len(classes) < 2:
        why = f", for example: {findings[0].kind}: {findings[0]}" if findings else ""
        raise UserError(
            f"{table.name} has {len(classes)} class(es) with images, and a classifier needs two{why}"
        )
    findings = (*findings, *check_spelling(*to_indices([text for text in labels if text])))
    opened = [source for source, _ in sources.values()]
    splits = {}
    for name in ("all", "train", "val", "test"):
        chosen = [i for i, image in enumerate(kept) if image[2] == name]
        if chosen:
            places = [kept[i][0] for i in chosen]
            columns = {
                c: tuple(table.rows[kept[i][3]][n] for i in chosen) for c, n in table.others.items()
            }
            splits[name] = CsvSource(
                places, opened, tuple(sources), numbers[chosen], classes, findings, columns
            )
    return splits


class _Table:
    """The rows of a file.

    Attributes:
        name: the file.
        rows: lists of texts.
        others: {column: its position} of those that have no meaning here.
    """

    def __init__(self, name, path, label):
        self.name = name
        header, self.rows, self._lines = read_rows(name)
        self._columns = {column: i for i, column in enumerate(header)}
        self._path = path
        self._label = label
        self._folder = os.path.dirname(name)
        known = (path, label, "split", "annotator", *_ELSEWHERE)
        self.others = {column: i for column, i in self._columns.items() if column not in known}
        self._elsewhere = any(column in self._columns for column in _ELSEWHERE)
        for column in [label, *(_ELSEWHERE if self._elsewhere else [path])]:
            if column not in self._columns:
                raise UserError(
                    f"{name} has no column {column!r}; its first line names {', '.join(map(repr, header))}. "
                    "Which are meant is said by csv:FILE?path=NAME&label=NAME"
                )

    def __contains__(self, column):
        return column in self._columns

    def cell(self, row, column):
        """Returns a text without blanks at its ends; "" where the table has no such column."""
        return self.rows[row][self._columns[column]].strip() if column in self._columns else ""

    def line(self, row):
        return f"{self.name}, line {self._lines[row]}"

    def labels(self):
        return [row[self._columns[self._label]] for row in self.rows]

    def key(self, row):
        """Returns what tells an image from others: its path, or (source, part, index); None for a
        row without one."""
        path = self.cell(row, self._path)
        elsewhere = ()
        if self._elsewhere:
            elsewhere = tuple(self.cell(row, column) for column in _ELSEWHERE)
        if path and any(elsewhere):
            raise UserError(
                f"{self.line(row)}: an image is a path, or a source with part and index, but not both"
            )
        if any(elsewhere) and not all(elsewhere):
            raise UserError(
                f"{self.line(row)}: an image of another source needs source, part and index"
            )
        if not path:
            return elsewhere if any(elsewhere) else None
        file = os.path.normpath(os.path.join(self._folder, path))
        if "\\" in path and not os.path.exists(file):  # written on Windows
            file = os.path.normpath(os.path.join(self._folder, path.replace("\\", "/")))
        return file

    def split(self, row):
        """Returns "train", "val" or "test"; "all" where the table has no such column."""
        if "split" not in self:
            return "all"
        value = self.cell(row, "split")
        if value.lower() not in SPLITS:
            raise UserError(
                f"{self.line(row)}: split is {value!r}, which must be one of {', '.join(SPLITS)}"
            )
        return SPLITS[value.lower()]


def read_rows(name):
    """Reads a table in UTF-8, separated by commas, semicolons or tabs; empty lines do not count.

    Args:
        name: the file.

    Returns:
        (header, rows, lines): N texts without blanks at their ends, lists of N texts, and the
        number of each row's last line.

    Raises:
        UserError: it cannot be read, or is no such table: rows of another length, two columns of
            one name, no rows.
    """
    try:
        text = Path(name).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {name!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 (byte {error.start}): save it as 'CSV UTF-8'"
        ) from error
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    delimiter = max(",;\t", key=re.sub('"[^"]*"', "", first).count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = None
    rows = []
    lines = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = [cell.strip() for cell in row]
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{name}, line {reader.line_num} has {len(row)} cells, the header {len(header)}"
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: {error}") from error
    if not rows:
        raise UserError(f"{name} has no rows: it needs a header and a row for each image")
    if twice := [column for column, n in collections.Counter(header).items() if n > 1]:
        raise UserError(f"{name} has two columns {twice[0]!r}")
    return header, rows, lines


def _group(table):
    """Returns ({an image's key: its rows}, the rows' labels, findings)."""
    labels, findings = strip(table.labels())
    images = collections.defaultdict(list)
    unlabeled = []
    for row, label in enumerate(labels):
        key = table.key(row)
        if key is None:
            findings.append(Finding("rows name no image", table.line(row), lost=True))
        elif label:
            images[key].append(row)
        else:
            unlabeled.append((row, key))
    for row, key in unlabeled:  # another annotator's row may have one
        findings.append(Finding("rows have no label", table.line(row), lost=key not in images))
    return images, labels, findings


def _settle(table, labels, title, rows):
    """Returns (label, split, findings): what an image's rows agree on. The label is None where they
    do not."""
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
    placed = dict.fromkeys(table.split(row) for row in rows)
    split = next(name for name in ("all", "test", "val", "train") if name in placed)
    if len(placed) > 1:
        findings.append(
            Finding("images are in several splits", title, f"{', '.join(placed)}: kept in {split}")
        )
    counts = collections.Counter(label for _, label in votes)
    leading = [label for label, n in counts.items() if n == max(counts.values())]
    if len(counts) > 1 and "annotator" not in table:
        findings.append(
            Finding("images have several labels", title, ", ".join(map(repr, counts)), lost=True)
        )
        return None, split, findings
    if len(leading) > 1:
        detail = f"{', '.join(map(repr, leading))}: labeled {leading[0]!r}"
        findings.append(Finding("images divide their annotators evenly", title, detail))
    return leading[0], split, findings


def _find_elsewhere(table, key, row, sources):
    """Returns (number of the source, index) of an image of another source; opens the source and
    adds it to `sources`.

    Args:
        sources: {(spec, part): (source, its number)}.
    """
    spec, part, index = key
    if (spec, part) not in sources:
        if asked := [name for name in parse(spec)[2] if name in CHANGES]:
            raise UserError(
                f"{table.line(row)}: {spec!r} cannot set {asked[0]!r}: an index counts without it"
            )
        try:
            parts = open_splits(spec)
        except UserError as error:
            raise UserError(f"{table.line(row)}: {error}") from error
        check_choice(f"{table.line(row)}: part", part, tuple(parts))
        sources[spec, part] = parts[part], len(sources)
    source, number = sources[spec, part]
    if not (index.isascii() and index.isdecimal() and int(index) < len(source)):
        raise UserError(
            f"{table.line(row)}: index is {index!r}, but {part} of {spec} has 0 to {len(source) - 1}"
        )
    return number, int(index)
