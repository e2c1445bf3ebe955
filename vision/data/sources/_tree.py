"""The images below a folder and all that is not one, read once, before any guess about classes."""

import dataclasses
import functools
import os
from collections.abc import Iterator

from vision.data.files import SYSTEM_FOLDERS, find_images, is_left_out, kind_of, list_folder
from vision.data.findings import Finding
from vision.data.formats import is_image_file, undecodable
from vision.errors import UserError

NO_EXTENSION = "files without an image extension are left out"
_DEPTH = 100  # folders in each other, before Python's own limit


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder.

    Attributes:
        path: where it is.
        images: paths of the images directly in it.
        folders: {name: folder} of those directly in it.
        skipped: a finding for each other entry directly in it.
    """

    path: str
    images: list[str]
    folders: dict[str, "Folder"]
    skipped: list[Finding]

    @property
    def name(self) -> str:
        return os.path.basename(os.path.abspath(self.path))

    @functools.cached_property
    def filled(self) -> dict[str, "Folder"]:
        """The folders directly in it that have images at any depth."""
        return {name: folder for name, folder in self.folders.items() if folder.has_images}

    @property
    def has_images(self) -> bool:
        """Whether it has images at any depth."""
        return bool(self.images or self.filled)

    def walk(self) -> Iterator["Folder"]:
        """Yields the folder and all below it."""
        yield self
        for folder in self.folders.values():
            yield from folder.walk()

    def all_images(self) -> list[str]:
        """Returns the sorted paths of all images below the folder."""
        return sorted(path for folder in self.walk() for path in folder.images)


def read_tree(path: str, above: tuple[str, ...] = ()) -> Folder:
    """Reads a folder and all below it. Links are followed, but not in circles.

    Args:
        path: the folder.
        above: real paths of the folders that it is below.

    Raises:
        UserError: a folder cannot be read.
    """
    if len(above) > _DEPTH:
        raise UserError(f"folder {above[0]!r} has folders more than {_DEPTH} levels deep")
    tree = Folder(path, [], {}, [])
    above = (*above, os.path.realpath(path))
    for entry in list_folder(path):
        kind = kind_of(entry)
        if is_left_out(entry):
            tree.skipped.extend(_left_out(entry, kind))
        elif kind == "folder":
            if os.path.realpath(entry.path) in above:
                tree.skipped.append(
                    Finding("links to their own parent folders are left out", entry.path)
                )
            else:
                tree.folders[entry.name] = read_tree(entry.path, above)
        elif kind == "file" and is_image_file(entry.path):
            tree.images.append(entry.path)
        else:
            tree.skipped.append(_skipped(entry, kind))
    return tree


def _left_out(entry, kind):
    """Returns findings for a hidden entry, or a folder of the operating system."""
    if entry.name.lower() in SYSTEM_FOLDERS:
        return [Finding("operating system folders are left out", entry.path)]
    if entry.name.startswith("._"):
        return [Finding("macOS resource files are left out", entry.path)]
    if kind == "file" and is_image_file(entry.path):
        return [Finding("hidden images are left out", entry.path)]
    if kind == "folder" and _may_have_images(entry.path):
        return [Finding("hidden folders with images are left out", entry.path)]
    return []


def _may_have_images(folder):
    """Whether a folder has images, or cannot be read."""
    try:
        return next(find_images(folder), None) is not None
    except UserError:
        return True


def _skipped(entry, kind):
    """Returns a finding for an entry that is neither a folder nor an image."""
    if kind == "broken link":
        extension = os.path.splitext(entry.name)[1]
        target = f"to {os.readlink(entry.path)}" if entry.is_symlink() else ""
        lost = not extension or is_image_file(entry.name)
        return Finding("links lead nowhere", entry.path, target, lost=lost)
    if kind == "special":
        return Finding("pipes, sockets and devices are left out", entry.path, lost=True)
    if problem := undecodable(entry.name):
        name, advice = problem
        return Finding(f"{name} cannot be decoded", entry.path, advice, lost=True)
    return Finding(NO_EXTENSION, entry.path)
