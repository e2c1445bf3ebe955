"""Tables for people: cells that a spreadsheet would compute are marked as text, and read back.

A name such as `=cmd|' /C calc'!A1` runs a command when someone opens the table in a spreadsheet. An
apostrophe before it makes it text there; `plain` takes it away again. Numbers stay as they are.
"""

import csv
import re
from collections.abc import Iterable
from typing import IO, Any

from vision.errors import printable

NAME = 20  # characters of the longest name in a table of text
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Writer:
    """Writes rows as CSV, with cells as text that a spreadsheet would take for a formula.

    Args:
        file: opened with newline="".
    """

    def __init__(self, file: IO[str]):
        self._writer = csv.writer(file, lineterminator="\n")

    def writerow(self, cells: Iterable[Any]) -> None:
        """Writes a row."""
        self._writer.writerow([neutral(c) if isinstance(c, str) else c for c in cells])


def neutral(text: str) -> str:
    """Returns a cell's text such that no spreadsheet computes it."""
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def plain(cell: str) -> str:
    """Returns the text that `neutral` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def column_width(names: Iterable[str]) -> int:
    """Returns how many characters a table of text gives to a column of names."""
    return min(max(len(printable(name)) for name in names), NAME)


def fitted(name: str, width: int) -> str:
    """Returns a name as a table of text shows it: cut or padded to the column's width."""
    name = printable(name)
    name = name if len(name) <= width else f"{name[: width - 1]}…"
    return f"{name:<{width}}"
