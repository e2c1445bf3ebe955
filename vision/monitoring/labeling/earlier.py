"""What earlier collections had, so that the next one has other images."""

import contextlib
import pathlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

from vision.monitoring.labeling.collection import Key, name_of, read_items

FLAG = "--earlier"


class Earlier(NamedTuple):
    """Images of earlier collections.

    Attributes:
        keys: (identifier of the request, index in it) of each.
        names: their files' names without a suffix, which come from the contents.
        files: where they are, as far as they have not been deleted.
    """

    keys: frozenset[Key] = frozenset()
    names: frozenset[str] = frozenset()
    files: Sequence[pathlib.Path] = ()


NOTHING = Earlier()


def read_earlier(directories: Sequence[pathlib.Path]) -> Earlier:
    """Returns the images of collections.

    Args:
        directories: of the collections, with answers or without.

    Raises:
        UserError: one is not a collection, or its collection.json is damaged.
    """
    keys: set[Key] = set()
    paths: dict[str, pathlib.Path] = {}
    for directory in directories:
        items, _ = read_items(directory, FLAG, f"leave it out of {FLAG}")
        keys |= {(item.request, item.index) for item in items.values()}
        paths |= {
            pathlib.PurePath(item.name).stem: directory / item.path for item in items.values()
        }
    files = [path for path in paths.values() if path.is_file()]
    return Earlier(frozenset(keys), frozenset(paths), files)


def has_name(file: pathlib.Path, names: Collection[str]) -> bool:
    """Returns whether a file's contents have one of the names; the file may have been deleted."""
    with contextlib.suppress(FileNotFoundError):  # the server deletes old ones
        return name_of(file.read_bytes()) in names
    return False
