"""What the kinds over image files share: which files are images, what splits are called, and a
source over files."""

import os

import numpy as np

from vision.data.decode import decode, read_file

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class FileSource:
    """A source over image files.

    Args:
        root: the folder that the files' names are relative to.
        files: names of the image files.
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        findings: see `Source`.
    """

    encoded = True

    def __init__(self, root, files, labels, classes, findings=()):
        self.root = str(root)
        self.files = files
        self.labels = np.asarray(labels, np.int32)
        self.classes = tuple(classes)
        self.findings = tuple(findings)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return {"image": decode(self.name(index)), "label": int(self.labels[index])}

    def name(self, index):
        return os.path.join(self.root, self.files[index])

    def file(self, index):
        return read_file(self.name(index))


def find_images(folder):
    """Yields the paths of all images below a folder; see `find_files`."""
    return find_files(folder, EXTENSIONS)


def is_image(entry):
    """Whether an entry of a folder is an image file, by its name."""
    return entry.name.lower().endswith(EXTENSIONS) and entry.is_file()


def find_files(folder, extensions, above=()):
    """Yields the paths of all files below a folder whose names end so, in any case, but for hidden
    files and folders.

    Links are followed, but not in circles.
    """
    here = os.path.realpath(folder)
    if here in above:
        return
    for entry in visible(folder):
        if entry.is_dir():
            yield from find_files(entry, extensions, (*above, here))
        elif entry.name.lower().endswith(extensions) and entry.is_file():
            yield entry.path


def visible(folder):
    """Returns the entries of a folder that are not hidden, by name."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
