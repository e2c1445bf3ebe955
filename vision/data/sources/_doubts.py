"""Findings on folders that are taken for classes, though something else may be meant."""

import collections
import os
import re
from collections.abc import Mapping

from vision.data.findings import Finding
from vision.data.sources._tree import Folder

# in lower case, without anything but letters and spaces
_UNLIKELY = {
    *("unlabeled", "unlabelled", "unclassified", "unsorted", "untagged", "unannotated"),
    *("thumb", "thumbs", "thumbnail", "thumbnails", "preview", "previews", "cache"),
    *("new folder", "neuer ordner", "nouveau dossier", "untitled folder", "temp", "tmp"),
    *("backup", "backups", "bak", "old", "trash", "deleted", "recycle bin", "to sort"),
    *("predict", "prediction", "predictions", "pred", "inference", "duplicates", "rejected"),
}
_COPY = re.compile(
    r"(.+?)(?: ?- (?:copy|kopie|copie|copia)(?: ?\(\d+\))?| \(?copy\)?(?: \d+)?| ?\(\d+\)|[._-]bak"
    r"|[._ -]backup)",
    re.I,
)
_EXAMPLES = 3


def doubts(trees: Mapping[str, Mapping[str, Folder]], generic: frozenset[str]) -> list[Finding]:
    """Returns findings for classes that may be none, or that contain the classes that are meant.

    Args:
        trees: {split: {class: folder}}.
        generic: names of folders, in lower case, that say nothing about what is in them.
    """
    folders = collections.defaultdict(list)
    for tree in trees.values():
        for name, folder in tree.items():
            if folder.has_images:
                folders[name].append(folder)
    return [
        *(finding for name in folders if (finding := _unlikely(name, folders))),
        *_divided(folders, generic),
        *_linked([folder for same in folders.values() for folder in same]),
    ]


def _unlikely(name, folders):
    """Returns a finding for a class whose folder's name does not look like a class; else None."""
    kind = "folders are used as classes, although their names do not look like classes"
    words = " ".join(re.findall(r"[a-z]+", name.lower()))
    copy = _COPY.fullmatch(name)
    if copy and copy.group(1) in folders:
        return Finding(kind, name, f"a copy of {copy.group(1)!r}?")
    return Finding(kind, name) if words in _UNLIKELY else None


def _divided(folders, generic):
    """Returns findings for classes whose images all lie in further folders."""
    inner = {
        name: sorted({i for folder in same for i in folder.filled if i.lower() not in generic})
        for name, same in folders.items()
        if not any(folder.images for folder in same)
    }
    if max(map(len, inner.values()), default=0) < 2:
        return []
    kind = "classes contain subfolders, which do not become classes"
    return [
        Finding(kind, name, ", ".join(names[:_EXAMPLES]) + (", ..." if names[_EXAMPLES:] else ""))
        for name, names in inner.items()
        if names
    ]


def _linked(tops):
    """Returns findings for folders that are reached twice, the second time through a link."""
    paths: dict[str, str] = {}
    findings = []
    for top in tops:
        for folder in top.walk():
            real_path = os.path.realpath(folder.path)
            if other := paths.get(real_path):
                kind = "folders appear twice, because of a link"
                findings.append(Finding(kind, folder.path, f"as {other}"))
            paths.setdefault(real_path, folder.path)
    return findings
