"""Tables of text as gzipped CSV, with a header; the same rows always give the same bytes."""

import csv
import gzip
import io
import os
import pathlib
from collections.abc import Iterable, Sequence

from vision.support.files import replacing
from vision.support.reading import parsing

LEVEL = 6  # of gzip's compression


def write_table(
    path: pathlib.Path | str, header: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """Writes a table, in full or not at all.

    Args:
        path: the file.
        header: names of the columns.
        rows: the cells of each row; bytes of file names that are not UTF-8 are kept.
    """
    with (
        replacing(path, binary=True) as file,
        gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed,
        io.TextIOWrapper(packed, "utf-8", "surrogateescape", newline="") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_table(
    path: pathlib.Path | str | os.PathLike[str], header: Sequence[str], remedy: str
) -> list[list[str]]:
    """Returns the rows of a table that `write_table` wrote.

    Args:
        path: the file.
        header: names of its columns.
        remedy: what to do if it is missing or damaged, for the message.

    Raises:
        UserError: it cannot be read, or has other columns.
    """
    with (
        parsing(path, remedy=remedy),
        gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        reader = csv.reader(file, strict=True)
        if next(reader, None) != list(header):
            raise ValueError(f"its first line is not {','.join(header)}")
        rows = list(reader)
        if any(len(row) != len(header) for row in rows):
            raise ValueError(f"a row does not have {len(header)} cells")
        return rows
