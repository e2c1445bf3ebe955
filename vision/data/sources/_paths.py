"""Finds the files that a table or an annotation names, although it was written elsewhere.

Names come without extension, with the folders of a Windows disk or of a server, as an address, or
in another Unicode form than the file's.
"""

import functools
import itertools
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator, Sequence

from vision.data.formats import image_extensions

# kind of the finding for each file that `locate` guessed
ELSEWHERE = "paths are from another disk or server; their last parts were found here"
_FOREIGN = re.compile(r"[a-z][a-z0-9+.-]+://[^/]*/|[a-z]:/|/", re.I)  # address, disk, root
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio puts it before the name of an upload
_WALK = 100_000  # files that a search for a name looks at


def find_file(names: Iterator[str] | Sequence[str]) -> str | None:
    """Returns the first of some paths that is a file, normalized; None if none is."""
    return next((path for path in map(os.path.normpath, names) if os.path.isfile(path)), None)


def locate(name: str, folders: Sequence[str]) -> tuple[str | None, bool]:
    """Returns (the file that a name means, whether that was a guess).

    The first name that leads to a file is taken: as it is, with slashes for backslashes, in another
    Unicode form, with the extension of an image. If it has a disk, a server or a root that is not
    here, its last parts are tried, the most first, which is a guess.

    Args:
        name: as written.
        folders: where relative names begin, in order.

    Returns:
        (path, guessed); (None, False) if there is no such file.
    """
    for form in _forms(name):
        if path := find_file([os.path.join(folder, form) for folder in folders]):
            return path, False
    for part in _parts(name.replace("\\", "/")):
        if path := find_file([os.path.join(folder, part) for folder in folders]):
            return path, True
    return None, False


def where(name: str, folder: str) -> str:
    """Returns the folder below `folder`, relative to it, from which a name leads to a file, or "".

    Args:
        name: a relative path.
        folder: where to search.
    """
    folders = (path for path, _, _ in os.walk(folder))
    for path in itertools.islice(folders, _WALK):
        if locate(name, [path])[0]:
            return os.path.relpath(path, folder)
    return ""


def _forms(name):
    """Yields a name and the other ways to write it."""
    yield name
    slashes = name.replace("\\", "/")
    if slashes != name:
        yield slashes
    for form in ("NFC", "NFD"):
        if (normal := unicodedata.normalize(form, slashes)) != slashes:
            yield normal
    if not slashes.lower().endswith(image_extensions()):
        for extension in _extensions():
            yield f"{slashes}{extension}"


@functools.cache
def _extensions():
    """Returns the extensions to try, the common ones first, in lower and upper case."""
    common = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
    return tuple(e for extension in common for e in (extension, extension.upper()))


def _parts(name):
    """Yields the last parts of a name that is not relative, the most first."""
    if not _FOREIGN.match(name):
        return
    path = name.partition("?d=")[2] or _FOREIGN.sub("", name, count=1).partition("?")[0]
    for text in dict.fromkeys((path, urllib.parse.unquote(path))):
        parts = [part for part in text.split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            yield "/".join(parts[start:])
            if _UPLOAD.match(parts[-1]):
                yield "/".join([*parts[start:-1], _UPLOAD.sub("", parts[-1])])
