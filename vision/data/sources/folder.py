"""`folder:PATH`: images sorted into one folder a class, with or without folders for the splits
above them.

The two layouts:

    PATH/CLASS/**/*.jpg                        no splits: the whole is "all"
    PATH/{train,val,test}/CLASS/**/*.jpg       splits; "valid" and "validation" are "val" too
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
from vision.errors import UserError


def open(argument):
    """Opens a tree of class folders.

    Classes are the folders that hold at least one image, at any depth, in any split; sorted by
    name. Folders without, and files that are no images by their extension, are findings; hidden
    ones are ignored.

    Returns:
        {"all": source}, or a dict with some of "train", "val", "test" where the tree has split
        folders.

    Raises:
        UserError: no such folder, no images, a single class, or split folders beside class folders.
    """
    root = Path(argument).expanduser()
    if not argument or not root.is_dir():
        raise UserError(
            f"folder {argument!r} does not exist: write folder:PATH, where PATH holds one folder a class"
        )
    folders = _split_folders(root)
    trees = {}
    findings = []
    for split, folder in folders.items():
        trees[split] = _class_files(folder, findings)
    classes = sorted({name for tree in trees.values() for name, files in tree.items() if files})
    if not classes:
        expected = f"{argument}/CLASS/*.jpg or {argument}/{{train,val,test}}/CLASS/*.jpg"
        raise UserError(f"folder {argument!r} has no images in class folders: expected {expected}")
    if len(classes) == 1:
        raise UserError(
            f"folder {argument!r} has a single class, {classes[0]!r}: a classifier needs two"
        )
    counts = {split: [len(tree.get(c, ())) for c in classes] for split, tree in trees.items()}
    loose = [e.path for f in {root, *folders.values()} for e in visible(f) if is_image(e)]
    findings += [
        Finding("images lie outside of the class folders, and are left out", path)
        for path in sorted(loose)
    ]
    empty = sorted(set().union(*trees.values()) - set(classes))
    findings += [Finding("class folders hold no image, and are left out", name) for name in empty]
    findings += check_spelling(
        np.repeat(np.arange(len(classes)), np.sum(list(counts.values()), axis=0)), classes
    )
    sources = {}
    for split, tree in trees.items():
        if any(tree.values()):
            files = [os.path.relpath(file, root) for c in classes for file in tree.get(c, ())]
            labels = np.repeat(np.arange(len(classes)), counts[split])
            sources[split] = FileSource(root, files, labels, classes, findings)
    return sources


def _split_folders(root):
    """Returns {split: the folder that holds its class folders}, with "all" for a tree without
    splits."""
    named = [f for f in visible(root) if f.is_dir() and f.name.lower() in SPLITS]
    others = [
        f
        for f in visible(root)
        if f.is_dir() and f.name.lower() not in SPLITS and next(find_images(f), None)
    ]
    # A folder that holds images itself is a class, whatever its name: "train" is one among
    # vehicles.
    flat = [f for f in named if any(is_image(entry) for entry in visible(f))]
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
            raise UserError(
                f"folder {str(root)!r} has two {split} splits: {folders[split].name!r} and {folder.name!r}"
            )
        folders[split] = root / folder.name
    return folders


def _class_files(folder, findings):
    """Returns {class folder: sorted paths of its images}; adds its other files to `findings`."""
    tree = {}
    for each in visible(folder):
        if each.is_dir():
            tree[each.name] = []
            for path in sorted(find_files(each, ("",))):
                if path.lower().endswith(EXTENSIONS):
                    tree[each.name].append(path)
                else:
                    findings.append(
                        Finding("files are no images by their extension, and are left out", path)
                    )
    return tree
