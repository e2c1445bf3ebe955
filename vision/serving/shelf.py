"""What lies in the models' directory: MODEL/VERSION/ with a bundle each, MODEL/traffic.json."""

import os
import pathlib
from typing import NamedTuple

from vision.bundle import MANIFEST
from vision.serving import traffic


class Listed(NamedTuple):
    """A version's directory.

    Attributes:
        mark: of its files' names, sizes, times of change and inodes; another one where any of them has changed.
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
        versions: {name: `Listed`}.
        fault: why it cannot be read; "" = it can.
    """

    traffic: bytes | None = None
    versions: dict = {}
    fault: str = ""


GONE = Folder()


def look(root):
    """Returns {model: `Folder`}.

    What is hidden, is no directory, or has a name that `vision.serving.traffic.NAME` does not take is left out.

    Raises:
        OSError: the directory cannot be read.
    """
    root = pathlib.Path(os.path.realpath(root))
    models = {}
    for folder in _folders(root):
        try:
            models[folder.name] = Folder(
                _traffic(folder), {path.name: _version(path, root) for path in _folders(folder)}
            )
        except FileNotFoundError:  # it went while it was looked at
            continue
        except OSError as error:
            models[folder.name] = Folder(fault=f"its directory cannot be read: {error.strerror}")
    return models


def _folders(directory):
    return [directory / e.name for e in os.scandir(directory) if traffic.NAME.fullmatch(e.name) and e.is_dir()]


def _traffic(folder):
    path = folder / traffic.FILE
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return file.read(traffic.MAX_BYTES + 1)


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
                files.append((file, known.st_size, known.st_mtime_ns, known.st_ino))
    return Listed(tuple(sorted(files)), "" if (path / MANIFEST).is_file() else f"it has no {MANIFEST} yet")
