"""What lies in the models' directory: MODEL/VERSION/ with a bundle each, MODEL/traffic.json."""

import os
import pathlib
from typing import NamedTuple

from vision.bundle.directory import MANIFEST
from vision.serving.models import traffic


class Listed(NamedTuple):
    """A version's directory.

    Attributes:
        mark: of its files' names, sizes, times of change, inodes, modes and owners; another one
            where any has changed.
        waits: why it is not to be loaded yet; "" = it is.
        fault: why it never is; "" = it may be.
    """

    mark: tuple
    waits: str = ""
    fault: str = ""


class Folder(NamedTuple):
    """A model's directory.

    Attributes:
        traffic: bytes of its traffic.json; None = there is none.
        unread: why that cannot be read; "" = it can.
        versions: {name: `Listed`}.
        fault: why the directory cannot be read; "" = it can.
    """

    traffic: bytes | None = None
    unread: str = ""
    versions: dict = {}
    fault: str = ""


GONE = Folder()


def look(root):
    """Returns ({model: `Folder`}, [why a directory is left out]).

    What is hidden or is no directory is left out without a word.

    Raises:
        OSError: the directory cannot be read.
    """
    root = pathlib.Path(os.path.realpath(root))
    models = {}
    left_out = []
    for folder in _folders(root, "", left_out):
        try:
            versions = _folders(folder, f"{folder.name}/", left_out)
            if not versions and (folder / MANIFEST).is_file():
                left_out.append(f"{folder.name} holds a bundle itself: move it to {folder.name}/1")
            models[folder.name] = Folder(
                *_traffic(folder), {path.name: _version(path, root) for path in versions}
            )
        except FileNotFoundError:  # it went while it was looked at
            continue
        except OSError as error:
            models[folder.name] = Folder(fault=f"its directory cannot be read: {error.strerror}")
    return models, left_out


def _folders(directory, prefix, left_out):
    """Returns the directories in one; those whose names would not do are noted in `left_out`."""
    found = []
    for entry in os.scandir(directory):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        if traffic.NAME.fullmatch(entry.name):
            found.append(directory / entry.name)
        else:
            shown = ascii(prefix + entry.name)
            left_out.append(
                f"{shown} is left out: a name has letters of ASCII, digits, dots, dashes and underscores"
            )
    return found


def _traffic(folder):
    """Returns (bytes of traffic.json or None, why it cannot be read)."""
    try:
        with open(folder / traffic.FILE, "rb") as file:
            return file.read(traffic.MAX_BYTES + 1), ""
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"{traffic.FILE} cannot be read: {error.strerror}"


def _version(path, root):
    if root not in pathlib.Path(os.path.realpath(path)).parents:
        return Listed((), fault="it is a link to a place outside of the models' directory")
    files = []
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            try:
                known = os.stat(file)
            except OSError:  # a link to nowhere, or gone by now
                files.append((file,))
            else:
                files.append(
                    (file, known.st_size, known.st_mtime_ns, known.st_ino, *_access(known))
                )
    mark = tuple(sorted(files))
    try:
        os.scandir(path).close()
        return Listed(mark, "" if (path / MANIFEST).is_file() else f"it has no {MANIFEST} yet")
    except PermissionError as error:
        return Listed(
            (*mark, _access(os.stat(path))), fault=f"its directory cannot be read: {error.strerror}"
        )


def _access(known):
    """Returns what makes readable what was not, of an `os.stat_result`."""
    return known.st_mode, known.st_uid, known.st_gid
