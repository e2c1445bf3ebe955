"""CSV tables: rows of texts under a header, with the line of each."""

import collections
import csv
import io
import re
from pathlib import Path

from vision.errors import UserError
from vision.support.reading import read_text


def read_rows(name: Path | str) -> tuple[list[str], list[list[str]], list[int]]:
    """Reads a table in UTF-8, separated by commas, semicolons or tabs; empty lines do not count.

    Args:
        name: the file.

    Returns:
        (header, rows, lines): N stripped texts, lists of N texts, and the number of each row's last
        line.

    Raises:
        UserError: it cannot be read, or is not such a table: rows of different length, two columns
            of one name, no rows.
    """
    text = read_text(name)
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
                    f"{name}, line {reader.line_num} has {len(row)} cells, "
                    f"but the header has {len(header)}"
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: {error}") from error
    if header is None or not rows:
        raise UserError(f"{name} has no rows: it needs a header and a row for each image")
    if repeated := [column for column, n in collections.Counter(header).items() if n > 1]:
        raise UserError(f"{name} has two columns {repeated[0]!r}")
    return header, rows, lines
