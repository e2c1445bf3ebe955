"""The commands of a page in the order in which they stand there, and the files that it shows."""

import re
from collections.abc import Iterator
from typing import NamedTuple

PARTS = re.compile(r"^```(\w*)\n(.*?)^```|`([^`]+)`|^#+ ([^\n]*)", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:\./scripts/|python -m |pip install |source )")
FILE = re.compile(r"# (\S+\.py)\n")


class Step(NamedTuple):
    """A command, or a file that the reader writes.

    Attributes:
        text: the command without its comment, or the file's content.
        section: the title above it.
        path: where the file is written; "" for a command.
    """

    text: str
    section: str
    path: str = ""


def read_steps(page: str) -> Iterator[Step]:
    """Yields the commands and files of a Markdown page, each of them once."""
    section = ""
    shown = set()
    for match in PARTS.finditer(page):
        language, block, quoted, title = match.groups()
        if title is not None:
            section = title
            continue
        if language == "python":
            path = FILE.match(block)
            if path:
                yield Step(block, section, path[1])
            continue
        lines = [quoted.replace("\n", " ")] if block is None else _joined(block)
        for line in lines:
            text = re.sub(r"\s+#.*", "", line).strip()
            if COMMAND.match(text) and text not in shown:
                shown.add(text)
                yield Step(text, section)


def _joined(block: str) -> list[str]:
    """Returns the lines of a block; those that end in a backslash are joined with the next."""
    return re.sub(r"\\\n\s*", "", block).splitlines()
