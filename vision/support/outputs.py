"""Where a command writes what belongs to each of many files: below a directory, as they lie."""

import glob
import hashlib
import os
import pathlib
from collections.abc import Sequence

from vision.errors import UserError

LONGEST = 200  # bytes of a name; file systems have 255, of which temporary files take some
ROOT = "_"
ABOVE = "__"


def place_below(file: str, suffix: str) -> str:
    """Returns the path, below a directory of outputs, of what belongs to a file.

    Different files have different places: the folders stay, "../a/b.png" is "__/a/b.png", and
    "/a/b.png" is "_/a/b.png". A folder whose own name is of underscores only gets two more. A long
    name keeps its end, behind a digest of it all.

    Args:
        file: path of the file.
        suffix: what is appended to its name, such as ".jpg"; ASCII.
    """
    path = pathlib.PurePath(os.path.normpath(file))
    parts = [_escaped(part) for part in path.relative_to(path.anchor).parts]
    name = _shortened(parts[-1], LONGEST - len(suffix))
    return os.path.join(*([ROOT] if path.anchor else []), *parts[:-1], name + suffix)


def check_outside(flag: str, directory: str, words: Sequence[str]) -> None:
    """Raises `UserError` if pictures would be written where images are looked for.

    A later run, or this one, would take them for images.

    Args:
        flag: the flag that names the directory, such as "--maps".
        directory: the directory of the pictures; "" for none.
        words: files, folders and patterns that name the images.
    """
    place = pathlib.Path(os.path.realpath(directory))
    for word in words if directory else ():
        if os.path.isfile(word):
            continue
        root = word
        while glob.has_magic(root) and not os.path.isdir(root):
            root = os.path.dirname(root)
        folder = pathlib.Path(os.path.realpath(root or "."))
        goes_deeper = os.path.isdir(word) or "**" in word or root != os.path.dirname(word)
        if place == folder or (goes_deeper and place.is_relative_to(folder)):
            raise UserError(
                f"{flag} {directory} is where {word} looks for images: give a directory outside it"
            )


def _escaped(part: str) -> str:
    """Returns a part of a path as one that is neither `ROOT` nor `ABOVE` unless it means that."""
    if part == os.pardir:
        return ABOVE
    return part if part.strip("_") else f"{part}__"


def _shortened(name: str, most: int) -> str:
    """Returns a name, or one of at most so many bytes in its place."""
    encoded = os.fsencode(name)
    if len(encoded) <= most:
        return name
    digest = hashlib.blake2b(encoded, digest_size=8).hexdigest()
    return f"{digest}_{encoded[len(digest) + 1 - most :].decode('utf-8', 'ignore')}"
