"""Scans the models' directory: MODEL/VERSION/ holds a bundle each, MODEL/traffic.json the weights.

A scan only reads; `vision.serving.models.repository` decides what follows from it.
"""

import os
import pathlib
from typing import NamedTuple

from vision.bundle.directory import MANIFEST
from vision.serving.models import links, traffic


class VersionFolder(NamedTuple):
    """A version's directory.

    Attributes:
        fingerprint: names, sizes, modification times, inodes, modes and owners of its files; it
            differs once any of them has changed.
        incomplete: why the version cannot be loaded yet; "" if it can.
        fault: why it can never be loaded; "" if it may be.
    """

    fingerprint: tuple
    incomplete: str = ""
    fault: str = ""


class ModelFolder(NamedTuple):
    """A model's directory.

    Attributes:
        traffic_data: the bytes of its traffic.json; None if there is none.
        traffic_fault: why traffic.json cannot be read; "" if it can.
        versions: {name: `VersionFolder`}.
        fault: why the directory cannot be read; "" if it can.
    """

    traffic_data: bytes | None = None
    traffic_fault: str = ""
    versions: dict[str, VersionFolder] = {}
    fault: str = ""


MISSING = ModelFolder()


def scan(root: pathlib.Path | str) -> tuple[dict[str, ModelFolder], list[str]]:
    """Returns ({model: `ModelFolder`}, [why a directory is left out]).

    Hidden entries and files are skipped silently.

    Raises:
        OSError: the directory cannot be read.
    """
    root = links.resolved(root)
    models = {}
    left_out: list[str] = []
    for folder in _subfolders(root, "", left_out):
        try:
            if not folder.exists():
                models[folder.name] = ModelFolder(fault=links.describe_link(folder))
                continue
            version_paths = _subfolders(folder, f"{folder.name}/", left_out)
            if not version_paths and (folder / MANIFEST).is_file():
                left_out.append(f"{folder.name} is itself a bundle: move it to {folder.name}/1")
            versions = {path.name: _scan_version(path, root) for path in version_paths}
            data, fault = _read_traffic(folder)
            models[folder.name] = ModelFolder(data, fault, versions)
        except FileNotFoundError:  # it was removed during the scan
            continue
        except OSError as error:
            fault = f"its directory cannot be read: {error.strerror}"
            models[folder.name] = ModelFolder(fault=fault)
    return models, left_out


def _subfolders(directory, prefix, left_out):
    """Returns the directories in a directory; adds those with unusable names to `left_out`."""
    folders = []
    for entry in os.scandir(directory):
        is_missing = links.leads_elsewhere(entry.path) and not os.path.exists(entry.path)
        if entry.name.startswith(".") or not (entry.is_dir() or is_missing):
            continue
        if traffic.NAME.fullmatch(entry.name):
            folders.append(directory / entry.name)
        else:
            left_out.append(
                f"{ascii(prefix + entry.name)} is ignored: a name may have only ASCII letters, "
                "digits, dots, dashes and underscores"
            )
    return folders


def _read_traffic(folder):
    """Returns (bytes of traffic.json or None, why it cannot be read)."""
    try:
        with open(folder / traffic.FILE, "rb") as file:
            return file.read(traffic.MAX_BYTES + 1), ""
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"{traffic.FILE} cannot be read: {error.strerror}"


def _scan_version(path, root):
    if not (
        links.is_inside(path, root)
        or links.leads_elsewhere(path)
        or links.leads_elsewhere(path.parent)
    ):
        return VersionFolder((), fault="it is a link to a place outside the models' directory")
    entries = []
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            try:
                stat = os.stat(file)
            except OSError:  # a dangling link, or removed by now
                entries.append((file,))
            else:
                entries.append((file, stat.st_size, stat.st_mtime_ns, stat.st_ino, *_access(stat)))
    fingerprint = tuple(sorted(entries))
    try:
        os.scandir(path).close()
        incomplete = "" if (path / MANIFEST).is_file() else f"it has no {MANIFEST} yet"
        return VersionFolder(fingerprint, incomplete)
    except PermissionError as error:
        fault = f"its directory cannot be read: {error.strerror}"
        return VersionFolder((*fingerprint, _access(os.stat(path))), fault=fault)


def _access(stat):
    """Returns the fields of an `os.stat_result` whose change may make a file readable."""
    return stat.st_mode, stat.st_uid, stat.st_gid
