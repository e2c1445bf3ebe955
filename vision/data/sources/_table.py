"""The rows of a table of images: what each says about its image, label and split."""

import os

from vision.data.files import SPLITS
from vision.data.findings import Finding
from vision.data.sources._cells import class_columns, labels_of, one_hot
from vision.data.sources._paths import ELSEWHERE, locate
from vision.data.tables import not_text, read_rows
from vision.errors import UserError

_REFERENCE = ("source", "part", "index")  # the columns that refer to an image of another source


class Table:
    """The rows of a file.

    Attributes:
        name: the file.
        rows: lists of texts.
        folder: where its relative paths begin.
        extra_columns: {column: its position} of the columns without a meaning here.
        findings: what was odd in reading it.
    """

    def __init__(self, name, path, label, folder):
        self.name = name
        header, self.rows, self._lines = read_rows(name, any_bytes=True)
        self._columns = {column: i for i, column in enumerate(header) if column}
        self._path = path
        self._label = label
        self.folder = os.path.join(os.path.dirname(name), os.path.expanduser(folder))
        self.findings = [
            Finding("columns without a name are left out", f"{name}, column {i + 1}")
            for i, column in enumerate(header)
            if not column and any(row[i].strip() for row in self.rows)
        ]
        own_columns = (path, label, "split", "annotator", *_REFERENCE)
        self.extra_columns = {
            column: i for column, i in self._columns.items() if column not in own_columns
        }
        self._has_references = any(column in self._columns for column in _REFERENCE)
        self._classes = (
            self._find_classes() if label == "label" and label not in self._columns else []
        )
        needed = [] if self._classes else [label]
        for column in [*needed, *(_REFERENCE if self._has_references else [path])]:
            if column not in self._columns:
                raise UserError(
                    f"{name} has no column {column!r}; its first line contains "
                    f"{', '.join(map(repr, header))}. "
                    "To choose the columns write csv:FILE?path=NAME&label=NAME"
                )

    def __contains__(self, column):
        return column in self._columns

    def cell(self, row, column):
        """Returns a cell's text, stripped; "" if the table has no such column."""
        return self.rows[row][self._columns[column]].strip() if column in self._columns else ""

    def line(self, row):
        """Returns where a row is, for messages."""
        return f"{self.name}, line {self._lines[row]}"

    def labels(self):
        """Returns the labels in each row, usually one."""
        if self._classes:
            positions = [self._columns[column] for column in self._classes]
            return [one_hot([row[i] for i in positions], self._classes) for row in self.rows]
        return [labels_of(row[self._columns[self._label]]) for row in self.rows]

    def _find_classes(self):
        """Returns the columns of zeros and ones that are the classes, if any."""
        columns = {name: [row[i] for row in self.rows] for name, i in self.extra_columns.items()}
        names = class_columns(columns)
        if names:
            kind = "columns of zeros and ones are taken as the classes"
            self.findings.append(Finding(kind, self.name, ", ".join(names)))
        return names

    def key(self, row):
        """Returns what identifies an image: its path or (source, part, index); None without one."""
        path = self.cell(row, self._path)
        reference = ()
        if self._has_references:
            reference = tuple(self.cell(row, column) for column in _REFERENCE)
        if path and any(reference):
            raise UserError(
                f"{self.line(row)}: an image must have a path, "
                "or a source with part and index, but not both"
            )
        if any(reference) and not all(reference):
            raise UserError(
                f"{self.line(row)}: an image of another source needs source, part and index"
            )
        if not path:
            return reference if any(reference) else None
        file, guessed = locate(path, [self.folder])
        if guessed:
            self.findings.append(Finding(ELSEWHERE, path, file))
        return file or os.path.normpath(os.path.join(self.folder, path.replace("\\", "/")))

    def check_text(self, keys):
        """Raises `UserError` if it is not UTF-8, unless by names of files that exist."""
        rows = [row for row, cells in enumerate(self.rows) if not_text(cells)]
        named = [key for key in keys if isinstance(key, str) and not_text([key])]
        if rows and not (named and all(map(os.path.isfile, named))):
            raise UserError(f"{self.line(rows[0])} is not UTF-8: save it as 'CSV UTF-8'")

    def split(self, row):
        """Returns "train", "val" or "test"; "all" if the table has no such column."""
        if "split" not in self:
            return "all"
        value = self.cell(row, "split")
        if value.lower() not in SPLITS:
            raise UserError(
                f"{self.line(row)}: split must be one of {', '.join(SPLITS)}, got {value!r}"
            )
        return SPLITS[value.lower()]
