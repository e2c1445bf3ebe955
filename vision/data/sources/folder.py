"""`folder:PATH`: images sorted into one folder per class, with or without folders for the splits.

The two layouts:

    PATH/CLASS/**/*.jpg                        no splits: everything is in "all"
    PATH/{train,val,test}/CLASS/**/*.jpg       splits

Split folders may also be called "valid", "Training", "test_set", "seg_train/seg_train" and so on,
and a folder around everything is passed over. What does not look like classes is refused:
`folder:PATH?level=2` says how many folders below PATH, or below its split folders, the classes are.
If no labels are needed, all images count, at any depth, of the folder or of each split's.
"""

import collections
import os
from pathlib import Path

import numpy as np

from vision.data.files import FileSource
from vision.data.findings import Finding
from vision.data.labels import are_enough, check_spelling
from vision.data.sources import Source
from vision.data.sources._layout import find_trees, named_splits, suggestion
from vision.data.sources._tree import NO_EXTENSION, Folder, read_tree
from vision.errors import UserError


def open(argument: str, *, level: str = "") -> dict[str, Source]:
    """Opens a tree of class folders.

    Classes are the folders that contain at least one image, at any depth, in any split; sorted by
    name. All that is left out is a finding.

    Args:
        argument: the folder.
        level: text of the number of folders from PATH or its split folders to the classes; "" to
            recognize it.

    Returns:
        {"all": source}, or a dict with some of "train", "val", "test" if the tree has split
        folders.

    Raises:
        UserError: no such folder, one that cannot be read, no images, a training split with a
            single class, split folders beside class folders, or folders that do not look like
            classes.
    """
    root = Path(argument).expanduser()
    title = f"folder:{argument}"
    if not argument or not root.is_dir():
        raise UserError(
            f"folder {argument!r} does not exist: "
            "write folder:PATH, where PATH contains one folder per class"
        )
    if level and not (level.isascii() and level.isdecimal() and 0 < int(level) < 10):
        raise UserError(f"{title}: level must be 1 to 9, got {level!r}")
    tree = read_tree(str(root))
    if are_enough(0):
        if level:
            raise UserError(f"{title}: level applies to class folders, which are not used here")
        return _without_classes(root, tree, title)
    findings: list[Finding] = []
    trees = find_trees(tree, title, int(level or 0), findings)
    files = {split: {c: f.all_images() for c, f in tree.items()} for split, tree in trees.items()}
    classes = sorted({name for split in files.values() for name, paths in split.items() if paths})
    empty = _empty(trees, classes)
    findings = [*_skipped(tree, trees), *findings, *empty]
    _check_classes(argument, trees, files, empty)
    counts = {split: [len(paths.get(c, ())) for c in classes] for split, paths in files.items()}
    totals = np.sum(list(counts.values()), axis=0)
    findings += check_spelling(np.repeat(np.arange(len(classes)), totals), classes)
    sources: dict[str, Source] = {}
    for split, paths in files.items():
        if any(paths.values()):
            names = [os.path.relpath(file, root) for c in classes for file in paths.get(c, ())]
            labels = np.repeat(np.arange(len(classes)), counts[split])
            sources[split] = FileSource(root, names, labels, classes, findings)
    return sources


def _without_classes(root: Path, tree: Folder, title: str) -> dict[str, Source]:
    """Returns all images of each split, at any depth, as one class: for learning without labels."""
    splits = {split: tree.folders[name] for name, split in named_splits(tree).items()}
    sources: dict[str, Source] = {}
    for split, top in (splits or {"all": tree}).items():
        names = [os.path.relpath(file, root) for file in top.all_images()]
        skipped = [finding for folder in top.walk() for finding in folder.skipped]
        if names:
            labels = np.zeros(len(names), int)
            sources[split] = FileSource(root, names, labels, ["unlabeled"], skipped)
    if not sources:
        raise UserError(f"{title} has no images")
    return sources


def _skipped(tree, trees):
    """Returns findings for what is not an image; outside classes, only for what may be missed."""
    inside = {id(f) for classes in trees.values() for top in classes.values() for f in top.walk()}
    return [
        finding
        for folder in tree.walk()
        for finding in folder.skipped
        if id(folder) in inside or finding.kind != NO_EXTENSION
    ]


def _empty(trees, classes):
    """Returns a finding for each class folder without images, with what it has instead."""
    folders = collections.defaultdict(list)
    for tree in trees.values():
        for name, folder in tree.items():
            folders[name].append(folder)
    return [
        Finding("class folders without images are left out", name, _instead(folders[name]))
        for name in sorted(folders.keys() - set(classes))
    ]


def _instead(folders):
    """Returns what some folders have instead of images, such as "10 .HEIC: convert them"."""
    counts: collections.Counter = collections.Counter()
    for top in folders:
        for folder in top.walk():
            for finding in folder.skipped:
                extension = os.path.splitext(finding.name)[1]
                reason = finding.kind if finding.lost else "no image"
                counts[f"{extension or 'without extension'} ({reason}{_advice(finding)})"] += 1
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common(3))


def _advice(finding):
    return f": {finding.detail}" if finding.lost and finding.detail else ""


def _check_classes(argument, trees, files, empty):
    """Raises `UserError` unless there are two classes to learn from; `empty` is in the message."""
    lost = [f"; {finding.name!r} has {finding.detail}" for finding in empty if finding.detail]
    left_out = "".join(lost[:3])
    classes = {split: [c for c, paths in tree.items() if paths] for split, tree in files.items()}
    if not any(classes.values()):
        expected = f"{argument}/CLASS/*.jpg or {argument}/{{train,val,test}}/CLASS/*.jpg"
        raise UserError(
            f"folder {argument!r} has no images in class folders: expected {expected}{left_out}"
        )
    learned = next((split for split in ("all", "train") if split in classes), "")
    names = classes.get(learned) or sorted(set().union(*classes.values()))
    if are_enough(len(names)) and (classes.get(learned) or not learned):
        return
    where = f" in {learned!r}" if learned == "train" else ""
    count = f"a single class, {names[0]!r}," if classes.get(learned, names) else "no images"
    folders = [tree[names[0]] for tree in trees.values() if names[0] in tree]
    folder = max(folders, key=lambda folder: len(folder.filled))
    hint = suggestion(folder, f"folder:{argument}", learned != "all")
    raise UserError(
        f"folder {argument!r} has {count}{where} but a classifier needs two{left_out}{hint}"
    )
