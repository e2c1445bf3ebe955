"""The schema as a table: each key with its default, its range and its meaning."""

import itertools
import textwrap
from collections.abc import Iterator

from vision.config.keys import Key
from vision.config.load import nearest_hint
from vision.config.schema import SECTIONS, TOP
from vision.errors import UserError

MAX_WIDTH = 24  # of the columns with defaults and ranges
GAP = 2  # spaces between columns
LEAST_MEANING_WIDTH = 30


def overview(word: str = "", width: int = 120) -> str:
    """Returns a table of the schema's keys, section by section.

    Args:
        word: only keys whose names or meanings contain it, in any case; "" for all.
        width: characters per line.

    Raises:
        UserError: if no key contains `word`.
    """
    blocks = []
    for name, meaning, keys in sections():
        rows = [(key_name, key) for key_name, key in keys.items() if _matches(word, key_name, key)]
        if rows:
            blocks.append("\n".join(_block(name, meaning, rows, width)))
    if not blocks:
        raise UserError(f"no key has '{word}' in its name or meaning{nearest_hint(word)}")
    return "\n\n".join(blocks)


def sections() -> Iterator[tuple[str, str, dict[str, Key]]]:
    """Yields (name, meaning, {"section.key": key}) for each section."""
    yield "", "", TOP
    for name, section in SECTIONS.items():
        keys = {f"{name}.{key_name}": key for key_name, key in section.keys.items()}
        yield name, section.meaning, keys


def _matches(word, name, key):
    return word.lower() in f"{name} {key.meaning}".lower()


def _block(name, meaning, rows, width):
    """Yields the lines of a section: its meaning, then its keys in columns."""
    if name:
        yield from textwrap.wrap(f"{name.upper()}. {meaning}", width)
    table = [(key_name, default_text(key), range_text(key), key.meaning) for key_name, key in rows]
    columns = [max(map(len, column)) for column in list(zip(*table, strict=True))[:3]]
    columns[1:] = [min(size, MAX_WIDTH) for size in columns[1:]]
    columns.append(max(LEAST_MEANING_WIDTH, width - sum(columns) - 2 - 3 * GAP))
    for cells in table:
        wrapped = [
            textwrap.wrap(text, max(size, 1)) for text, size in zip(cells, columns, strict=True)
        ]
        for parts in itertools.zip_longest(*wrapped, fillvalue=""):
            padded = [part.ljust(size + GAP) for part, size in zip(parts, columns, strict=True)]
            yield f"  {''.join(padded)}".rstrip()


def range_text(key: Key) -> str:
    """Returns what the value of a key must be; "" for any value of its type."""
    return key.range.text if key.range else ""


def default_text(key: Key) -> str:
    """Returns the default of a key as it is shown to people."""
    if key.default is None:
        return f"None ({key.type.__name__})"
    if isinstance(key.default, tuple):
        return f"({', '.join(f'{value:.4g}' for value in key.default)})"
    return f'"{key.default}"' if isinstance(key.default, str) else str(key.default)
