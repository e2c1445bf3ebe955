"""`parquet:FILES`: tables with an encoded image and a label per row, as on the Hugging Face hub.

FILES is a file, a folder, or a pattern such as 'parquet:data/*.parquet'. A word in the name of a
file or of its folder gives the split: train-00000-of-00002.parquet, cifar10_test.parquet,
validation/0000.parquet. The image is a column of bytes, or of {bytes, path}; the label is an
integer, with the names that the hub writes into the file, or a text. `?text=COLUMN` names the
images' captions; images without one are left out, or stay with `&empty=keep`.
"""

import collections
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.data.decode import UnreadableImage, decode
from vision.data.files import split_files
from vision.data.findings import Finding
from vision.data.sources import Source
from vision.data.sources._columns import (
    IMAGES,
    LABELS,
    choose,
    index_labels,
    keep,
    plain_labels,
    plain_texts,
    scatter,
)
from vision.data.texts import with_texts
from vision.errors import UserError, brief
from vision.support.extras import require
from vision.support.reading import parse_json, parsing
from vision.support.schema import Damaged, among, mismatch

CACHE_BYTES = 256 << 20  # of row groups that each process keeps in memory
LARGE_GROUP = 1 << 30
FORMS = "parquet:FILE, parquet:FOLDER or 'parquet:FOLDER/*.parquet'"


class ParquetSource:
    """A source over the rows of some files.

    Row groups are read whole, and the latest stay in memory: reading in order is fast, and so is
    reading at random if the groups are small or fit into `CACHE_BYTES`. Otherwise pack the data
    first.

    Args:
        files: names of the files.
        groups: int (G, 2), for each row group its file and its number in that file.
        starts: int (G + 1,), each group's first row; the last is the number of rows.
        column: path of the images' column: "image", or "image.bytes".
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        findings: see `Source`.
    """

    encoded = True
    bits = 0

    def __init__(
        self,
        files: Sequence[str],
        groups: np.ndarray,
        starts: np.ndarray,
        column: str,
        labels: np.ndarray,
        classes: tuple[str, ...],
        findings: tuple[Finding, ...],
    ):
        # a file that is rewritten is read again
        self._modified = [os.stat(file).st_mtime_ns for file in files]
        self.files = files
        self.groups = groups
        self.starts = starts
        self.column = column
        self.labels = labels
        self.classes = classes
        self.findings = findings

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> dict:
        image = decode(self.file(index), name=self.name(index), bits=self.bits)
        return {"image": image, "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        group = self._group(index)
        first = np.searchsorted(self.groups[:, 0], self.groups[group, 0])
        return f"{self.files[self.groups[group, 0]]}[{index - self.starts[first]}]"

    def file(self, index: int) -> bytes:
        group = self._group(index)
        file, number = self.groups[group].tolist()
        try:
            images = _cache.get((self.files[file], number, self.column, self._modified[file]))
        except Exception as error:  # a damaged page makes the library raise all sorts
            reason = f"its row group: {brief(error)}"
            raise UnreadableImage(reason, self.name(index)) from error
        row = int(index - self.starts[group])
        if row >= len(images):
            raise UnreadableImage(f"its row group has only {len(images)} rows", self.name(index))
        data = images[row].as_py()
        if data is None:
            raise UnreadableImage("no bytes in its row", self.name(index))
        return data

    def column_names(self) -> list[str]:
        """Returns the names of the columns that `column_values` reads."""
        import pyarrow.parquet as pq

        return pq.read_schema(self.files[0]).names

    def column_values(self, name: str) -> list:
        """Returns the values of a column, one for each row."""
        import pyarrow.parquet as pq

        values = []
        for file in self.files:
            with parsing(file):
                table = pq.read_table(file, columns=[name], use_threads=False, partitioning=None)
                values += table.column(name).to_pylist()
        return values

    def _group(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        return int(np.searchsorted(self.starts, index, side="right")) - 1


class _Cache:
    """The row groups that this process read last."""

    def __init__(self):
        self._lock = threading.Lock()
        self._groups: collections.OrderedDict[tuple, Any] = collections.OrderedDict()

    def get(self, key):
        """Returns the images of a row group, by (file, number, column, modification time)."""
        with self._lock:
            if key not in self._groups:
                self._groups[key] = _read_group(*key[:3])
                while len(self._groups) > 1 and self._size() > CACHE_BYTES:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            return self._groups[key]

    def _size(self):
        return sum(group.nbytes for group in self._groups.values())


_cache = _Cache()


def _read_group(file, number, column):
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    name, _, field = column.partition(".")
    with pq.ParquetFile(file) as table:
        images = table.read_row_group(number, columns=[column], use_threads=False).column(name)
    return pc.struct_field(images, field) if field else images


def open(
    argument: str, *, image: str = "", label: str = "", text: str = "", empty: str = ""
) -> dict[str, Source]:
    """Opens the files.

    Args:
        argument: a file, a folder or a pattern.
        image: name of the images' column; "" finds it by type and name.
        label: name of the labels' column; "" finds it by type and name.
        text: name of the captions' column; "" for no captions.
        empty: "keep" keeps the images whose caption is empty, for models that can do without.

    Returns:
        {"all": source} if the file names give no split, or the same for all; else a dict with some
        of "train", "val", "test". Labels are read, images are not.

    Raises:
        UserError: no such files, only some of them give a split, they are not tables of images, or
            their columns differ.
    """
    require("the source parquet:", "parquet", only=("pyarrow",))
    tables = {
        split: [_Table(name) for name in names]
        for split, names in split_files([argument], ".parquet", FORMS).items()
    }
    every_table = [table for members in tables.values() for table in members]
    first = every_table[0]
    image, label = _choose_columns(first, image, label, f"parquet:{argument}")
    _check_alike(every_table, image, label)
    values = {
        split: _join([table.read(label) for table in members]) for split, members in tables.items()
    }
    kept, classes, findings = index_labels(
        values, first.labels[label][1], lambda split, row: _row_name(tables[split], row)
    )
    findings += [finding for table in every_table for finding in table.large_groups()]
    sources = {}
    for split, (rows, labels) in kept.items():
        every_label = scatter(rows, labels, len(values[split]))
        sources[split] = keep(_source(tables[split], image, every_label, classes, findings), rows)
    if not text and empty:
        raise UserError(
            f"parquet:{argument}: empty={empty} is for captions: name their column by ?text="
        )
    if not text:
        return sources
    captions = {
        split: [c for table in tables[split] for c in table.captions(text)] for split in sources
    }
    return with_texts(sources, captions, f"parquet:{argument}", empty)


def _check_alike(tables, image, label):
    """Raises `UserError` unless all files have the columns and classes of the first."""
    first = tables[0]
    for table in tables:
        if image not in table.images or table.labels.get(label) != first.labels[label]:
            raise UserError(
                f"{table.name}: its columns or their classes differ from those of {first.name}"
            )


def _choose_columns(table, image, label, title):
    """Returns the names of the columns of images and labels, given or found."""
    image = choose("image", image, table.images, IMAGES, title)
    with_names = [name for name, (_, names) in table.labels.items() if names]
    common = (*LABELS, *with_names) if len(with_names) == 1 else LABELS
    return image, choose("label", label, table.labels, common, title)


def _row_name(tables, row):
    """Returns what `ParquetSource.name` returns, before there is a source."""
    for table in tables:
        if row < sum(table.lengths):
            return f"{table.name}[{row}]"
        row -= sum(table.lengths)
    raise IndexError(row)


def _source(tables, image, labels, classes, findings):
    groups = [(i, number) for i, table in enumerate(tables) for number in range(len(table.lengths))]
    starts = np.cumsum([0, *(length for table in tables for length in table.lengths)])
    files = [table.name for table in tables]
    column = tables[0].images[image]
    return ParquetSource(files, np.array(groups), starts, column, labels, classes, tuple(findings))


class _Table:
    """The footer of a file.

    Attributes:
        lengths: number of rows of each row group.
        images: {name: path of the bytes} of the columns that may hold images.
        labels: {name: (whether it holds texts, names of its integers)} of the columns that may hold
            labels.
    """

    def __init__(self, name):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.name = name
        with parsing(name), pq.ParquetFile(name) as table:
            self.metadata = table.metadata
            schema = table.schema_arrow
        groups = range(self.metadata.num_row_groups)
        self.lengths = [self.metadata.row_group(number).num_rows for number in groups]
        self.images = {}
        self.labels = {}
        names = _class_names(schema)
        for field in schema:
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            if _is_binary(kind):
                self.images[field.name] = field.name
            elif _has_bytes(kind):
                self.images[field.name] = f"{field.name}.bytes"
            elif pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind):
                self.labels[field.name] = _is_text(kind), names.get(field.name, ())

    def read(self, column):
        """Returns a column of labels: int64 (N,), or N texts; -1 or "" if a row has none."""
        with parsing(self.name):
            return plain_labels(self._column(column))

    def _column(self, name):
        import pyarrow.parquet as pq

        table = pq.read_table(self.name, columns=[name], use_threads=False, partitioning=None)
        if len(table) != sum(self.lengths):
            raise ValueError(f"its column {name!r} does not have the rows of its footer")
        return table.column(name)

    def captions(self, column):
        """Returns a column of captions, N bytes or None; raises `UserError` if there is none."""
        names = [name for name, (is_text, _) in self.labels.items() if is_text]
        if column not in names:
            raise UserError(
                f"{self.name} has no caption column {column!r}; its text columns are: "
                f"{', '.join(map(repr, names)) or 'none'}"
            )
        with parsing(self.name):
            return plain_texts(self._column(column))

    def large_groups(self):
        """Yields a finding for each row group of more than `LARGE_GROUP` bytes.

        By the size of all columns: with damaged statistics, pyarrow ends the process if it is asked
        for that of one (26.0).
        """
        kind = "row groups are large, and reading one image reads all of its group: pack the data"
        for number in range(len(self.lengths)):
            size = self.metadata.row_group(number).total_byte_size
            if size > LARGE_GROUP:
                yield Finding(kind, f"{self.name}, group {number}", f"{size / 2**30:.1f} GiB")


def _is_binary(kind):
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _has_bytes(kind):
    """Whether a type is a struct with a field "bytes" of binary type."""
    import pyarrow as pa

    return (
        pa.types.is_struct(kind)
        and kind.get_field_index("bytes") >= 0
        and _is_binary(kind.field("bytes").type)
    )


def _is_text(kind):
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _class_names(schema):
    """Returns {column: names of its classes}, which the hub's library writes into the schema."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        metadata = parse_json(text, {"info": {"features": {str: object}}}, "the hub's metadata")
    except Damaged:
        return {}
    return {
        column: tuple(map(str, feature["names"]))
        for column, feature in metadata["info"]["features"].items()
        if mismatch(feature, {"_type": among("ClassLabel"), "names": [object]}) is None
    }


def _join(columns):
    """Joins the labels of several files, which are all numbers or all texts."""
    if all(isinstance(column, np.ndarray) for column in columns):
        return np.concatenate(columns)
    return [value for column in columns for value in column]
