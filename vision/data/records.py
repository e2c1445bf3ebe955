"""Random access to array_record files, the format of prepared TFDS data and of packed sources."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# for access in random order
_READER: dict[str, Any] = {
    "options": "readahead_buffer_size:0",
    "file_reader_buffer_size": 1 << 15,
}


def count_records(path: str) -> int:
    """Returns the number of records in a file; 0 if it is missing or truncated."""
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(path, **_READER).num_records()


def parse_example(record: bytes) -> Mapping[str, Any]:
    """Returns the features of a serialized `tf.train.Example`, by name."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record).features.feature


def bytes_of(example: Mapping[str, Any], key: str) -> bytes:
    """Returns the bytes of a feature; raises ValueError if the example has none."""
    values = example[key].bytes_list.value
    if not values:
        raise ValueError(f"its record has no {key}")
    return values[0]


def make_example(features: Mapping[str, bytes | int]) -> bytes:
    """Serializes features as a `tf.train.Example`, to the same bytes each time."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        (feature.bytes_list if isinstance(value, bytes) else feature.int64_list).value.append(value)
    return example.SerializeToString(deterministic=True)


@contextlib.contextmanager
def record_writer(path: Path | str) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that appends a record to a new array_record file.

    The file is laid out for reading single records in random order.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    # Compression does not make images smaller, and reading a record that shares its block with
    # others costs reading all of them.
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    try:
        yield writer.write
    finally:
        writer.close()


class Records:
    """Random access to the records of array_record files.

    array_record's own data source hands every single read to a thread pool, which takes 68 us each;
    this takes 8 us.

    Args:
        paths: names of the files.
        lengths: number of records in each.
    """

    def __init__(self, paths: Sequence[str], lengths: Sequence[int]):
        self.paths = paths
        self.lengths = lengths
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._readers: dict[int, Any] = {}

    def __reduce__(self):
        return Records, (self.paths, self.lengths)  # each process opens its own readers

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = int(index - self._starts[file])
        try:
            return self._reader(file).read(row, row + 1)[0]
        except IndexError as error:  # not of the caller: the file has lost records
            raise RuntimeError(f"{self.paths[file]} has no record {row}") from error

    def __iter__(self) -> Iterator[bytes]:
        for file, length in enumerate(self.lengths):
            for row in range(0, length, 1024):
                yield from self._reader(file).read(row, min(row + 1024, length))

    def _reader(self, file):
        if file not in self._readers:
            from array_record.python.array_record_module import ArrayRecordReader

            self._readers[file] = ArrayRecordReader(self.paths[file], **_READER)
        return self._readers[file]
