"""Which folders are splits and which are classes, and whether that guess makes sense.

A wrong guess trains without complaint: "Training" against "Testing", color against gray. So what
does not look like classes is an error, which names the likely layout and what to write instead.
"""

import collections
import re

from vision.data.files import SPLITS, split_of
from vision.data.findings import Finding
from vision.data.sources._doubts import doubts
from vision.data.sources._tree import Folder
from vision.errors import UserError

Trees = dict[str, dict[str, Folder]]  # {split: {class: folder}}, the split "all" without splits

# folders that say nothing about what is in them
_GENERIC = {
    *("images", "image", "imgs", "img", "photos", "pictures", "pics", "data", "dataset", "raw"),
    *("datasets", "archive", "files", "jpg", "jpeg", "png", "jpegimages", "input", "inputs"),
}
_ANNOTATIONS = {
    *("masks", "mask", "labels", "label", "annotations", "annotation", "groundtruth", "gt"),
    *("segmentation", "segmentations", "depth", "bbox", "xmls"),
    *("segmentationclass", "segmentationobject"),
}
# parts of a data set that hosts or cross-validation have divided: "fold1", "images_001"
_PARTS = {
    *("fold", "part", "batch", "shard", "chunk", "split", "subset", "disk", "volume"),
    *("set",),
}
_UNLABELED = {"pred", "predict", "prediction", "unlabeled", "unlabelled", "sample", "samples"}
_LABELING = {"labeled", "labelled", "unlabeled", "unlabelled"}
_EXAMPLES = 3


def find_trees(root: Folder, title: str, level: int, findings: list[Finding]) -> Trees:
    """Returns the class folders of each split.

    Args:
        root: the folder that the user named.
        title: the source's name, "folder:PATH", for messages.
        level: how many folders below the root, or below its split folders, the classes are; 0 to
            recognize that, and to refuse what does not look like classes.
        findings: gets what was passed over or left out.

    Raises:
        UserError: split folders beside class folders, two of one split, or folders that do not look
            like classes.
    """
    top = _unwrap(root, findings)
    splits = _split_folders(top, root, title, findings, level)
    for name, folder in splits.items():
        if name != "all":
            splits[name] = _unwrap_split(folder, findings)
            if splits[name].images:
                _refuse_flat(root, splits[name], title)
    trees = {name: _classes(folder, level or 1, findings) for name, folder in splits.items()}
    if not level:
        for tree in trees.values():
            _leave_out_copy(tree, title, findings)
        _check_repeated(trees, title, top.path)
        _check_names(trees, title)
        findings += doubts(trees, frozenset(_GENERIC))
    return trees


def suggestion(folder: Folder, title: str, has_splits: bool) -> str:
    """Returns what may be meant if a folder is the only class: ". If ... write ...", or "".

    Args:
        folder: the folder of the class.
        title: the source's name, "folder:PATH".
        has_splits: whether it is in a split folder.
    """
    level = 2
    while not folder.images and len(folder.filled) == 1:
        (folder,) = folder.filled.values()
        level += 1
    if folder.images or not folder.filled:
        return ""
    names = _quote(folder.filled)
    if has_splits:
        return f". If {names} in it are the classes, write {title}?level={level}"
    if repeated := _find_repeated({name: set(f.filled) for name, f in folder.filled.items()}):
        parents, inner_names = repeated
        return (
            f". If {_quote(inner_names)} are the classes, write folder:{folder.path}/{parents[0]}"
        )
    return f". If {names} in it are the classes, write folder:{folder.path}"


def _unwrap(folder, findings):
    """Returns the folder itself, or the one that it only wraps."""
    chain = [folder]
    while not chain[-1].images and len(chain[-1].filled) == 1:
        chain += chain[-1].filled.values()
    if chain[-1].images and len(chain) > 1:
        chain.pop()
    wrapped = len(chain) - 1
    if len(named_splits(chain[-1])) < 2:
        names = [inner.name.lower() for inner in chain]
        tests = [_is_wrapper(names[i], names[i - 1 : i + 2 : 2]) for i in range(1, len(names))]
        wrapped = next((i for i, passes in enumerate(tests) if not passes), len(tests))
    if wrapped:
        kind = "inner folders are used instead of outer ones"
        findings.append(Finding(kind, chain[wrapped].path))
    return chain[wrapped]


def _is_wrapper(name, beside):
    """Whether a folder is only a wrapper, by its name and those of the folders around and in it."""
    return name == beside[0] or (not split_of(name) and (name in _GENERIC or name in beside))


def _unwrap_split(folder, findings):
    """Returns a split's folder, or "train" inside of "train"."""
    while not folder.images and len(folder.filled) == 1:
        (only,) = folder.filled.values()
        same = split_of(only.name) and split_of(only.name)[0] == (split_of(folder.name) or "_")[0]
        if not (same or only.name.lower() in _GENERIC):
            break
        findings.append(Finding("inner folders are used instead of outer ones", only.path))
        folder = only
    return folder


def named_splits(folder: Folder) -> dict[str, str]:
    """Returns {name: split} of the folders directly in a folder that are named like splits."""
    meanings = {name: meaning for name in folder.folders if (meaning := split_of(name))}
    splits_by_rest = collections.defaultdict(set)
    for split, rest in meanings.values():
        splits_by_rest[rest].add(split)
    # "flowers_train" and "flowers_test" are splits, "test negative" and "test positive" are not
    return {
        name: split
        for name, (split, rest) in meanings.items()
        if not rest or (len(splits_by_rest[rest]) > 1 and len(splits_by_rest) == 1)
    }


def _split_folders(root, above, title, findings, level):
    """Returns {split: its folder}, with "all" for a tree without splits.

    `above` is the folder that the user named, which may be `root`.
    """
    named = named_splits(root)
    unnamed = [name for name in root.filled if name not in named]
    # A folder that contains images itself is a class, whatever its name: "train" may be a vehicle.
    flat = [name for name in named if root.folders[name].images]
    if not named or (len(flat) == len(named) and (level or _is_class(flat, unnamed))):
        return {"all": root}
    for name in list(unnamed):
        if _is_leftover(root, name, named, findings):
            unnamed.remove(name)
    if flat:
        _refuse_flat(above, root.folders[flat[0]], title)
    if unnamed:
        raise UserError(
            f"{title} mixes split folders ({min(named)!r}) and class folders ({unnamed[0]!r}): "
            "move every class into a split, or remove the split folders. If "
            f"{unnamed[0]!r} is a split too, call it train, val or test"
        )
    splits = {}
    for name, split in named.items():
        if split in splits:
            raise UserError(f"{title} has two {split} splits: {splits[split].name!r} and {name!r}")
        splits[split] = root.folders[name]
    return splits


def _is_class(flat, unnamed):
    """Whether the only folder that is named like a split is a class among others, the vehicle."""
    return [name.lower() for name in flat] == ["train"] and None in map(_name_kind, unnamed)


def _is_leftover(root, name, named, findings):
    """Whether a folder beside splits has images without labels, or a copy of everything."""
    folder = root.folders[name]
    if _UNLABELED & set(re.findall(r"[a-z]+", name.lower())):
        for path in folder.all_images():
            findings.append(Finding("images outside class folders are left out", path))
        return True
    if set(named_splits(folder)) != set(named):
        return False
    outer = {path[len(root.path) :] for n in named for path in root.folders[n].all_images()}
    inner = {path[len(folder.path) :] for path in folder.all_images()}
    if outer == inner:
        findings.append(Finding("copies of all splits are left out", folder.path))
    return outer == inner


def _refuse_flat(root, folder, title):
    labels = [finding.name for finding in root.skipped if finding.name.lower().endswith(".csv")]
    advice = ". If they have no labels, move them elsewhere"
    if any("labels" in inner.folders for inner in root.walk()):
        advice = ". Boxes in labels/*.txt are YOLO's: convert them to COCO, and use coco:FILE"
    elif labels:
        advice = f". If {labels[0]} has the labels, write csv:{labels[0]}?path=COLUMN&label=COLUMN"
    raise UserError(
        f"{title}: {folder.name!r} contains images outside class folders; "
        f"expected {folder.name}/CLASS/*.jpg{advice}"
    )


def _classes(folder, level, findings):
    """Returns {class: folder} of the folders at some level below a folder."""
    for image in folder.images:
        findings.append(Finding("images outside class folders are left out", image))
    if level == 1:
        return dict(folder.folders)
    classes = {}
    for parent in folder.folders.values():
        for name, inner in _classes(parent, level - 1, findings).items():
            merged = classes.setdefault(name, Folder(inner.path, [], {}, []))
            merged.folders[inner.path] = inner
    return classes


def _leave_out_copy(tree, title, findings):
    """Removes a folder beside the classes that has all of them once more.

    Raises `UserError` if it has other images, and so is not a copy.
    """
    for name, folder in list(tree.items()):
        inner = set(folder.filled)
        shared = inner & (set(tree) - {name})
        if 2 * len(shared) <= len(inner):
            continue
        has_others = folder.images or inner - shared
        if has_others or any(not _same(tree[n], folder.filled[n]) for n in inner):
            raise UserError(
                f"{title} has the folders {_quote(shared)} both in {name!r} and next to it: "
                f"write {title}/{name}, or move it elsewhere. If all are classes, write "
                f"{title}?level=1"
            )
        findings.append(Finding("copies of all classes are left out", folder.path))
        del tree[name]


def _same(folder, other):
    """Whether two folders have images of the same names."""
    names = [path[len(folder.path) :] for path in folder.all_images()]
    return names == [path[len(other.path) :] for path in other.all_images()]


def _check_repeated(trees, title, top):
    """Raises `UserError` if the same folders are repeated below several classes."""
    below = collections.defaultdict(set)  # class: names of the folders in it
    for tree in trees.values():
        for name, folder in tree.items():
            below[name] |= set(folder.filled)
    repeated = _find_repeated(below)
    if not repeated:
        return
    parents, names = repeated
    if {name.lower() for name in names} <= _ANNOTATIONS:
        advice = "list the images and their labels in a table, csv:FILE, without these folders"
    elif all(map(split_of, names)):
        advice = f"move {parents[0]}/{names[0]} to {names[0]}/{parents[0]}, and so on"
    elif len(names) == 1:
        advice = f"if the folders {names[0]!r} are not wanted, move them elsewhere"
    else:
        single = (
            f"for one of them write folder:{top}/{parents[0]}, " if set(trees) == {"all"} else ""
        )
        if single and len(parents) <= len(set(SPLITS.values())):
            single += "if they are splits, call them train, val and test, "
        advice = f"{single}for the classes {_quote(names)} in all of them {title}?level=2"
    raise UserError(
        f"{title}: the folders {_quote(parents)} do not look like classes, because they contain "
        f"the same folders ({_quote(names)}): {advice}. If {_quote(parents)} are the classes, "
        f"write {title}?level=1"
    )


def _find_repeated(below):
    """Returns (folders, names) if most names of the folders in some folders are the same.

    None if they are not; `below` is {folder: names of the folders in it}.
    """
    names_of = {
        folder: {name for name in names if name.lower() not in _GENERIC}
        for folder, names in below.items()
    }
    counts = collections.Counter(name for names in names_of.values() for name in names)
    repeated = {name for name, count in counts.items() if count > 1}
    parents = sorted(
        folder for folder, names in names_of.items() if 2 * len(names & repeated) > len(names)
    )
    if len(parents) < 2:
        return None
    return parents, sorted(repeated.intersection(*(names_of[folder] for folder in parents[:1])))


def _check_names(trees, title):
    """Raises `UserError` if all classes are named like parts of a data set."""
    names = sorted({name for tree in trees.values() for name, f in tree.items() if f.has_images})
    _check_prefixes(names, title)
    kinds = {_name_kind(name) for name in names}
    if len(names) < 2 or None in kinds:
        return
    raise UserError(
        f"{title} has the folders {_quote(names)}, which look like parts of a dataset rather "
        "than classes: give the labels in a table, csv:FILE, or, if they are the classes, write "
        f"{title}?level=1"
    )


def _check_prefixes(names, title):
    """Raises `UserError` if folders name a split and a class at once: trainA, trainB, testA."""
    meanings = {name: split_of(name) for name in names}
    if not all(meanings.values()):
        return
    splits_by_rest = collections.defaultdict(set)
    for split, rest in meanings.values():
        splits_by_rest[rest].add(split)
    if max(map(len, splits_by_rest.values()), default=0) > 1:
        split, rest = meanings[names[0]]
        raise UserError(
            f"{title} has the folders {_quote(names)}, which name both a split and a class: "
            f"move {names[0]} to {split}/{rest or 'CLASS'}, and so on. If they are the classes, "
            f"write {title}?level=1"
        )


def _name_kind(name):
    """Returns what a folder that is not a class is named after; None for any other name."""
    words = re.findall(r"[a-z]+", name.lower())
    joined = "".join(word for word in words if len(word) > 1)  # "Dataset_A"
    if joined in _ANNOTATIONS:
        return "annotations"
    if joined in _GENERIC or split_of(name) == ("train", "") or split_of(name) == ("test", ""):
        return "generic"
    is_part = joined in _LABELING or (joined in _PARTS and re.search("[0-9]", name))
    return "part" if is_part else None


def _quote(names):
    """Returns the first few names, quoted."""
    names = sorted(names)
    return ", ".join(map(repr, names[:_EXAMPLES])) + (", ..." if len(names) > _EXAMPLES else "")
