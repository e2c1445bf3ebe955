"""`folder:PATH`: images sorted into one folder per class, with or without folders for the splits.

The two layouts:

    PATH/CLASS/**/*.jpg                        no splits: everything is in "all"
    PATH/{train,val,test}/CLASS/**/*.jpg       splits; "valid" and "validation" also mean "val"
"""

import os
from pathlib import Path

import numpy as np

from vision.data.files import (
    EXTENSIONS,
    SPLITS,
    FileSource,
    find_files,
    find_images,
    is_image,
    visible,
)
from vision.data.findings import Finding
from vision.data.labels import check_spelling
from vision.data.sources import Source
from vision.errors import UserError


def open(argument: str) -> dict[str, Source]:
    """Opens a tree of class folders.

    Classes are the folders that contain at least one image, at any depth, in any split; sorted by
    name. Folders without images, and files without an image extension, are findings; hidden ones
    are ignored.

    Returns:
        {"all": source}, or a dict with some of "train", "val", "test" if the tree has split
        folders.

    Raises:
        UserError: no such folder, no images, a single class, or split folders beside class folders.
    """
    root = Path(argument).expanduser()
    if not argument or not root.is_dir():
        raise UserError(
            f"folder {argument!r} does not exist: "
            "write folder:PATH, where PATH contains one folder per class"
        )
    folders = _split_folders(root)
    findings: list[Finding] = []
    trees = {split: _class_files(folder, findings) for split, folder in folders.items()}
    classes = sorted({name for tree in trees.values() for name, files in tree.items() if files})
    if not classes:
        expected = f"{argument}/CLASS/*.jpg or {argument}/{{train,val,test}}/CLASS/*.jpg"
        raise UserError(f"folder {argument!r} has no images in class folders: expected {expected}")
    if len(classes) == 1:
        raise UserError(
            f"folder {argument!r} has a single class, {classes[0]!r}, but a classifier needs two"
        )
    counts = {split: [len(tree.get(c, ())) for c in classes] for split, tree in trees.items()}
    findings += _unused(root, folders, trees, classes)
    totals = np.sum(list(counts.values()), axis=0)
    findings += check_spelling(np.repeat(np.arange(len(classes)), totals), classes)
    sources: dict[str, Source] = {}
    for split, tree in trees.items():
        if any(tree.values()):
            files = [os.path.relpath(file, root) for c in classes for file in tree.get(c, ())]
            labels = np.repeat(np.arange(len(classes)), counts[split])
            sources[split] = FileSource(root, files, labels, classes, findings)
    return sources


def _unused(root, folders, trees, classes):
    """Returns findings for images outside class folders and for class folders without images."""
    loose = [e.path for f in {root, *folders.values()} for e in visible(f) if is_image(e)]
    empty = set().union(*trees.values()) - set(classes)
    return [
        *(Finding("images outside class folders are left out", path) for path in sorted(loose)),
        *(Finding("class folders without images are left out", name) for name in sorted(empty)),
    ]


def _split_folders(root):
    """Returns {split: the folder of its class folders}, with "all" for a tree without splits."""
    folders = [entry for entry in visible(root) if entry.is_dir()]
    named = [f for f in folders if f.name.lower() in SPLITS]
    unnamed = [f for f in folders if f.name.lower() not in SPLITS and next(find_images(f), None)]
    # A folder that contains images itself is a class, whatever its name: "train" may be a vehicle.
    flat = [f for f in named if any(is_image(entry) for entry in visible(f))]
    if not named or (unnamed and len(flat) == len(named)):
        return {"all": root}
    if flat:
        raise UserError(
            f"folder {str(root)!r}: {flat[0].name!r} contains images outside class folders; "
            f"expected {flat[0].name}/CLASS/*.jpg"
        )
    if unnamed:
        raise UserError(
            f"folder {str(root)!r} mixes split folders ({named[0].name!r}) and class folders "
            f"({unnamed[0].name!r}): move every class into a split, or remove the split folders"
        )
    splits = {}
    for folder in named:
        split = SPLITS[folder.name.lower()]
        if split in splits:
            raise UserError(
                f"folder {str(root)!r} has two {split} splits: "
                f"{splits[split].name!r} and {folder.name!r}"
            )
        splits[split] = root / folder.name
    return splits


def _class_files(folder, findings):
    """Returns {class folder: sorted paths of its images}; adds its other files to `findings`."""
    tree = {}
    for entry in visible(folder):
        if entry.is_dir():
            tree[entry.name] = []
            for path in sorted(find_files(entry, ("",))):
                if path.lower().endswith(EXTENSIONS):
                    tree[entry.name].append(path)
                else:
                    findings.append(Finding("files without an image extension are left out", path))
    return tree
