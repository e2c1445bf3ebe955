"""`folder:PATH`: images sorted into one folder a class, with or without folders for the splits above them.

The two layouts:

    PATH/CLASS/**/*.jpg                        no splits: the whole is "all"
    PATH/{train,val,test}/CLASS/**/*.jpg       splits; "valid" and "validation" are "val" too
"""

import os
from pathlib import Path

import numpy as np

from vision.data.decode import decode, read_file
from vision.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class FolderSource:
    """A source over image files.

    Args:
        root: the folder that the files' names are relative to.
        files: names of the image files.
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
    """

    encoded = True
    findings = ()

    def __init__(self, root, files, labels, classes):
        self.root = str(root)
        self.files = files
        self.labels = np.asarray(labels, np.int32)
        self.classes = tuple(classes)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return {"image": decode(os.path.join(self.root, self.files[index])), "label": int(self.labels[index])}

    def name(self, index):
        return os.path.join(self.root, self.files[index])

    def file(self, index):
        return read_file(self.name(index))


def open(argument):
    """Opens a tree of class folders.

    Classes are the folders that hold at least one image, at any depth, in any split; sorted by name. Hidden files and
    folders, files that are no images by their extension, and images outside of the class folders are ignored.

    Returns:
        {"all": source}, or a dict with some of "train", "val", "test" where the tree has split folders.

    Raises:
        UserError: no such folder, no images, a single class, or split folders beside class folders.
    """
    root = Path(argument).expanduser()
    if not argument or not root.is_dir():
        raise UserError(f"folder {argument!r} does not exist: write folder:PATH, where PATH holds one folder a class")
    trees = {split: _class_files(folder) for split, folder in _split_folders(root).items()}
    classes = sorted(set().union(*trees.values()))
    if not classes:
        expected = f"{argument}/CLASS/*.jpg or {argument}/{{train,val,test}}/CLASS/*.jpg"
        raise UserError(f"folder {argument!r} has no images in class folders: expected {expected}")
    if len(classes) == 1:
        raise UserError(f"folder {argument!r} has a single class, {classes[0]!r}: a classifier needs two")
    return {split: _source(root, classes, tree) for split, tree in trees.items() if tree}


def _source(root, classes, tree):
    """Returns a source from {class: files}."""
    files = [os.path.relpath(file, root) for c in classes for file in tree.get(c, ())]
    labels = np.repeat(np.arange(len(classes)), [len(tree.get(c, ())) for c in classes])
    return FolderSource(root, files, labels, classes)


def _split_folders(root):
    """Returns {split: the folder that holds its class folders}, with "all" for a tree without splits."""
    named = [f for f in _visible(root) if f.is_dir() and f.name.lower() in SPLITS]
    others = [f for f in _visible(root) if f.is_dir() and f.name.lower() not in SPLITS and next(find_images(f), None)]
    # A folder that holds images itself is a class, whatever its name: "train" is one among vehicles.
    flat = [f for f in named if any(_is_image(entry) for entry in _visible(f))]
    if not named or (others and len(flat) == len(named)):
        return {"all": root}
    if flat:
        raise UserError(
            f"folder {str(root)!r}: {flat[0].name!r} holds images outside of class folders; "
            f"expected {flat[0].name}/CLASS/*.jpg"
        )
    if others:
        raise UserError(
            f"folder {str(root)!r} mixes split folders ({named[0].name!r}) and class folders ({others[0].name!r}): "
            "move every class into a split, or take the split folders away"
        )
    folders = {}
    for folder in named:
        split = SPLITS[folder.name.lower()]
        if split in folders:
            raise UserError(f"folder {str(root)!r} has two {split} splits: {folders[split].name!r} and {folder.name!r}")
        folders[split] = root / folder.name
    return folders


def _class_files(folder):
    """Returns {class: sorted paths of its images}, for the class folders that have any."""
    tree = {f.name: sorted(find_images(f)) for f in _visible(folder) if f.is_dir()}
    return {name: files for name, files in tree.items() if files}


def find_images(folder, above=()):
    """Yields the paths of all images below a folder. Links are followed, but not in circles."""
    here = os.path.realpath(folder)
    if here in above:
        return
    for entry in _visible(folder):
        if entry.is_dir():
            yield from find_images(entry, (*above, here))
        elif _is_image(entry):
            yield entry.path


def _visible(folder):
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _is_image(entry):
    return entry.name.lower().endswith(EXTENSIONS) and entry.is_file()
