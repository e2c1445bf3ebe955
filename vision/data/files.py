"""What the kinds over image files share: image extensions, names of splits, a source over files."""

import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vision.data.decode import decode, read_file
from vision.data.findings import Finding

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class FileSource:
    """A source over image files.

    Args:
        root: the folder that the file names are relative to.
        files: names of the image files.
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        findings: see `Source`.
    """

    encoded = True

    def __init__(
        self,
        root: pathlib.Path | str,
        files: Sequence[str],
        labels: np.ndarray,
        classes: Iterable[str],
        findings: Iterable[Finding] = (),
    ):
        self.root = str(root)
        self.files = files
        self.labels = np.asarray(labels, np.int32)
        self.classes = tuple(classes)
        self.findings = tuple(findings)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        return {"image": decode(self.name(index)), "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.files[index])

    def file(self, index: int) -> bytes | None:
        return read_file(self.name(index))


def find_images(folder: pathlib.Path | str) -> Iterator[str]:
    """Yields the paths of all images below a folder; see `find_files`."""
    return find_files(folder, EXTENSIONS)


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a directory entry is an image file, judged by its name."""
    return entry.name.lower().endswith(EXTENSIONS) and entry.is_file()


def find_files(
    folder: os.PathLike[str] | str, extensions: tuple[str, ...], above: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yields the paths of all files below a folder with one of the extensions, in any case.

    Hidden files and folders are skipped. Links are followed, but not in circles.
    """
    real_path = os.path.realpath(folder)
    if real_path in above:
        return
    for entry in visible(folder):
        if entry.is_dir():
            yield from find_files(entry, extensions, (*above, real_path))
        elif entry.name.lower().endswith(extensions) and entry.is_file():
            yield entry.path


def visible(folder: os.PathLike[str] | str) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
