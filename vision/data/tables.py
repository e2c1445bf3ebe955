"""CSV tables: rows of texts under a header, with the line of each."""

import collections
import csv
import io
import re
from pathlib import Path

from vision.errors import UserError
from vision.support.cells import plain
from vision.support.reading import read_text

_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n', re.I)  # a first line that Excel writes and obeys


def read_rows(
    name: Path | str, any_bytes: bool = False
) -> tuple[list[str], list[list[str]], list[int]]:
    """Reads a table in UTF-8 or UTF-16, separated by commas, semicolons, tabs or "|".

    Empty lines do not count, nor do empty cells beyond the header's.

    Args:
        name: the file.
        any_bytes: whether to keep bytes that are not UTF-8, as Python keeps those of file names;
            the caller then decides where they may be, see `not_text`.

    Returns:
        (header, rows, lines): N stripped texts, of which several may be ""; lists of N texts; and
        the number of each row's last line.

    Raises:
        UserError: it cannot be read, or is not such a table: rows of different length, two columns
            of one name, no rows.
    """
    text = read_text(name, any_bytes=any_bytes)
    if text.startswith(("PK\x03\x04", "\udcd0\udccf\x11")):
        raise UserError(f"{name} is a workbook or an archive: save the table as 'CSV UTF-8'")
    separator = _SEPARATOR.match(text)
    text = text[separator.end() :] if separator else text
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    delimiter = max(",;\t|", key=re.sub('"[^"]*"', "", first).count)
    delimiter = separator.group(1) if separator else delimiter
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = None
    rows = []
    lines = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = [plain(cell.strip()) for cell in row]
                continue
            line = reader.line_num + bool(separator)
            cells = [plain(cell) for cell in row]
            rows.append(_fit(cells, len(header), f"{name}, line {line}"))
            lines.append(line)
    except csv.Error as error:
        line = reader.line_num + bool(separator)
        raise UserError(f"{name}, line {line}: {error}") from error
    if header is None or not rows:
        raise UserError(f"{name} has no rows: it needs a header and a row for each image")
    counts = collections.Counter(filter(None, header))
    if repeated := [column for column, n in counts.items() if n > 1]:
        raise UserError(f"{name} has two columns named {repeated[0]!r}")
    return header, rows, lines


def not_text(cells: list[str]) -> bool:
    """Whether cells contain bytes that are not UTF-8."""
    return any("\udc80" <= character <= "\udcff" for cell in cells for character in cell)


def _fit(row, count, place):
    """Returns a row without the empty cells that are beyond the header's columns."""
    if len(row) < count or any(cell.strip() for cell in row[count:]):
        raise UserError(f"{place} has {len(row)} cells, but the header has {count}")
    return row[:count]
