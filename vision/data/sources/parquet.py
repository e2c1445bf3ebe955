"""`parquet:FILES`: tables with an encoded image and a label in each row, as the Hugging Face hub
keeps its data sets.

FILES is a file, a folder, or a pattern such as 'parquet:data/*.parquet'. A word in a file's name,
or its folder's, tells the split: train-00000-of-00002.parquet, cifar10_test.parquet,
validation/0000.parquet. The image is a column of bytes, or of {bytes, path}; the label a whole
number, with the names that the hub writes into the file, or a text.
"""

import collections
import glob
import json
import os
import re
import threading
from pathlib import Path

import numpy as np

from vision.data.decode import UnreadableImage, decode
from vision.data.files import SPLITS, find_files
from vision.data.findings import Finding
from vision.data.sources._columns import IMAGES, LABELS, choose, index_labels, plain_labels
from vision.data.splits import Subset
from vision.errors import UserError

CACHE_BYTES = 256 << 20  # of row groups that each process keeps
LARGE_GROUP = 1 << 30


class ParquetSource:
    """A source over the rows of some files.

    A row group is read as a whole, and the latest are kept in memory: reading in order is fast,
    reading at random where the groups fit into `CACHE_BYTES` or are small. Else pack the data
    first.

    Args:
        files: names of the files.
        groups: int (G, 2), the file and the number in it of each row group.
        starts: int (G + 1,), each group's first row; the last is the number of rows.
        column: name of the images' column: "image", or "image.bytes".
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        findings: see `Source`.
    """

    encoded = True

    def __init__(self, files, groups, starts, column, labels, classes, findings):
        # a file that is written anew is read anew
        self._stamps = [os.stat(file).st_mtime_ns for file in files]
        self.files = files
        self.groups = groups
        self.starts = starts
        self.column = column
        self.labels = labels
        self.classes = classes
        self.findings = findings

    def __len__(self):
        return int(self.starts[-1])

    def __getitem__(self, index):
        return {
            "image": decode(self.file(index), name=self.name(index)),
            "label": int(self.labels[index]),
        }

    def name(self, index):
        group = self._group(index)
        first = np.searchsorted(self.groups[:, 0], self.groups[group, 0])
        return f"{self.files[self.groups[group, 0]]}[{index - self.starts[first]}]"

    def file(self, index):
        import pyarrow as pa

        group = self._group(index)
        file, number = self.groups[group].tolist()
        try:
            images = _cache.get((self.files[file], number, self.column, self._stamps[file]))
        except (OSError, pa.ArrowException) as error:
            raise UnreadableImage(
                f"its row group: {str(error).splitlines()[0]}", self.name(index)
            ) from error
        data = images[int(index - self.starts[group])].as_py()
        if data is None:
            raise UnreadableImage("no bytes in its row", self.name(index))
        return data

    def _group(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        return int(np.searchsorted(self.starts, index, side="right")) - 1


class _Cache:
    """The row groups that this process read last."""

    def __init__(self):
        self._lock = threading.Lock()
        self._groups = collections.OrderedDict()

    def get(self, key):
        with self._lock:
            if key not in self._groups:
                self._groups[key] = _read_group(*key[:3])
                while (
                    len(self._groups) > 1
                    and sum(group.nbytes for group in self._groups.values()) > CACHE_BYTES
                ):
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            return self._groups[key]


_cache = _Cache()


def _read_group(file, number, column):
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    name, _, field = column.partition(".")
    with pq.ParquetFile(file) as table:
        images = table.read_row_group(number, columns=[column], use_threads=False).column(name)
    return pc.struct_field(images, field) if field else images


def open(argument, *, image="", label=""):
    """Opens the files.

    Args:
        argument: a file, a folder or a pattern.
        image, label: names of the columns; "" = found by their type and name.

    Returns:
        {"all": source} where the files' names tell no split, or the same for all; else a dict with
        some of "train", "val", "test". Labels are read, images are not.

    Raises:
        UserError: no such files, some of them tell a split and others none, they are no tables of
            images, or differ in their columns.
    """
    files = _split_files(argument)
    tables = {split: [_Table(name) for name in names] for split, names in files.items()}
    first = next(iter(tables.values()))[0]
    title = f"parquet:{argument}"
    image = choose("image", image, first.images, IMAGES, title)
    named = [name for name, (_, names) in first.labels.items() if names]
    label = choose(
        "label", label, first.labels, (*LABELS, *(named if len(named) == 1 else ())), title
    )
    for table in (table for some in tables.values() for table in some):
        if image not in table.images or table.labels.get(label) != first.labels[label]:
            raise UserError(
                f"{table.name}: its columns or their classes differ from those of {first.name}"
            )
    values = {split: _join([table.read(label) for table in some]) for split, some in tables.items()}

    bare = {split: _source(some, image, None, (), ()) for split, some in tables.items()}
    kept, classes, findings = index_labels(
        values, first.labels[label][1], lambda split, row: bare[split].name(row)
    )
    findings = (
        *findings,
        *(f for some in tables.values() for table in some for f in table.large_groups(image)),
    )
    sources = {}
    for split, (rows, labels) in kept.items():
        whole = np.zeros(len(values[split]), np.int32)
        whole[rows] = labels
        source = _source(tables[split], image, whole, classes, findings)
        sources[split] = source if len(rows) == len(source) else Subset(source, rows)
    return sources


def _source(tables, image, labels, classes, findings):
    groups = [(i, number) for i, table in enumerate(tables) for number in range(len(table.lengths))]
    starts = np.cumsum([0, *(length for table in tables for length in table.lengths)])
    column = tables[0].images[image]
    return ParquetSource(
        [t.name for t in tables], np.array(groups), starts, column, labels, classes, findings
    )


class _Table:
    """What a file's footer tells.

    Attributes:
        lengths: rows of each row group.
        images: {name: path of the bytes} of the columns that may hold images.
        labels: {name: (whether it holds texts, names of its integers)} of the columns that may hold
            labels.
    """

    def __init__(self, name):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.name = name
        try:
            with pq.ParquetFile(name) as table:
                self.metadata = table.metadata
                schema = table.schema_arrow
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"cannot read {name}: {str(error).splitlines()[0]}") from error
        self.lengths = [
            self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)
        ]
        self.images = {}
        self.labels = {}
        names = _class_names(schema)
        for field in schema:
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            if _is_binary(kind):
                self.images[field.name] = field.name
            elif (
                pa.types.is_struct(kind)
                and kind.get_field_index("bytes") >= 0
                and _is_binary(kind.field("bytes").type)
            ):
                self.images[field.name] = f"{field.name}.bytes"
            elif pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind):
                self.labels[field.name] = _is_text(kind), names.get(field.name, ())

    def read(self, column):
        """Returns a column of labels: int64 (N,), or N texts; -1 or "" where there is none."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            values = pq.read_table(
                self.name, columns=[column], use_threads=False, partitioning=None
            ).column(column)
            return plain_labels(values)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"cannot read {self.name}: {str(error).splitlines()[0]}") from error

    def large_groups(self, image):
        columns = [
            i for i in range(self.metadata.num_columns) if self._path(i) == self.images[image]
        ]
        for number in range(len(self.lengths)):
            size = sum(
                self.metadata.row_group(number).column(i).total_uncompressed_size for i in columns
            )
            if size > LARGE_GROUP:
                kind = "row groups are read as a whole for any of their images: pack the data, which reads them once"
                yield Finding(kind, f"{self.name}, group {number}", f"{size / 2**30:.1f} GiB")

    def _path(self, column):
        return self.metadata.schema.column(column).path


def _is_binary(kind):
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind):
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _class_names(schema):
    """Returns {column: names of its classes} from what the hub's library writes into a file's
    schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"][
            "features"
        ]
        named = {
            name: f["names"]
            for name, f in features.items()
            if isinstance(f, dict) and f.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {
        name: tuple(map(str, names)) for name, names in named.items() if isinstance(names, list)
    }


def _join(columns):
    """Joins the labels of several files, all numbers or all texts."""
    if all(isinstance(column, np.ndarray) for column in columns):
        return np.concatenate(columns)
    return [value for column in columns for value in column]


def _split_files(argument):
    """Returns {split: names of its files}."""
    pattern = os.path.expanduser(argument)
    if os.path.isdir(pattern):
        files = list(find_files(pattern, (".parquet",)))
        root = pattern
    else:
        files = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))
        root = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    if not files:
        raise UserError(
            f"{argument!r} names no file: write parquet:FILE, parquet:FOLDER or 'parquet:FOLDER/*.parquet'"
        )
    splits = collections.defaultdict(list)
    for file in files:
        splits[_split_of(os.path.relpath(file, root or "."))].append(file)
    if len(splits) == 1:  # one file of many, perhaps the test's: it will be divided
        return {"all": files}
    if None in splits:
        raise UserError(
            f"{splits[None][0]}: its name tells no split, as others' do: a word in it must be train, val or test"
        )
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _split_of(path):
    """Returns the split that a path's words tell, those of its last part first; None where there is
    none."""
    for part in reversed(Path(path).parts):
        found = {SPLITS[word] for word in re.split(r"[^a-z]+", part.lower()) if word in SPLITS}
        if found:
            return found.pop() if len(found) == 1 else None
    return None
