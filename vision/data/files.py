"""What the kinds over image files share: walking folders, names of splits, a source over files."""

import collections
import glob
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vision.data.decode import decode, read_file
from vision.data.findings import Finding
from vision.data.formats import image_extensions
from vision.errors import UserError

SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "training": "train",
    "dev": "val",
    "testing": "test",
}
_FOLDERS = SPLITS | dict.fromkeys(("eval", "evaluation", "holdout"), "test")
_FOLDERS |= {"trainval": "train"}
# words that may stand beside a split in the name of its folder: "seg_train", "Training Set"
_BESIDE_SPLITS = {
    *(
        "set",
        "sets",
        "data",
        "dataset",
        "split",
        "folder",
        "dir",
        "seg",
        "cropped",
        "resized",
        "full",
    ),
    *("images", "image", "imgs", "img", "photos", "pictures", "pics"),
}
# what operating systems, network storage and editors leave behind, in lower case
SYSTEM_FOLDERS = {
    *("@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "@tmp", "@transcode"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "$windows.~bt"),
    *("__macosx", "lost+found", "network trash folder", "temporary items", "__pycache__"),
    *(".trashes", ".trash", ".spotlight-v100", ".fseventsd", ".appledouble", ".thumbnails"),
    *("@__thumb", "@synoeastream", "@sharebin", "@database", "@appstore", "@tmp", "~snapshot"),
    *(f"found.{number:03d}" for number in range(10)),  # what chkdsk has saved
    *("_gsdata_", "recycle bin"),
    *(".ipynb_checkpoints", ".@__thumb", ".picasaoriginals", ".temporaryitems", ".thumb"),
}


class FileSource:
    """A source over image files.

    Args:
        root: the folder that the file names are relative to.
        files: names of the image files.
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        findings: see `Source`.
        base: the folder that the images' keys are relative to; None for `root`.
    """

    encoded = True
    bits = 0

    def __init__(
        self,
        root: pathlib.Path | str,
        files: Sequence[str],
        labels: np.ndarray,
        classes: Iterable[str],
        findings: Iterable[Finding] = (),
        base: pathlib.Path | str | None = None,
    ):
        self.root = str(root)
        self.base = None if base is None else str(base)
        self.files = files
        self.labels = np.asarray(labels, np.int32)
        self.classes = tuple(classes)
        self.findings = tuple(findings)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        return {"image": decode(self.name(index), bits=self.bits), "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.files[index])

    def keys(self) -> list[str]:
        """Returns each image's path from the root, or from `base`: see `Source`."""
        if self.base is None:
            return [portable(file) for file in self.files]
        return [portable(os.path.relpath(self.name(i), self.base)) for i in range(len(self))]

    def file(self, index: int) -> bytes | None:
        return read_file(self.name(index))


def portable(path: str) -> str:
    """Returns a relative path as every system writes it: "/" between folders, accents composed."""
    path = path if os.sep == "/" else path.replace(os.sep, "/")
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def split_of(folder: str) -> tuple[str, str] | None:
    """Returns the split that a folder's name means, and the rest of the name.

    "Training" and "seg_train" are ("train", ""), "flowers-test2017" is ("test", "flowers"). None if
    the name contains no split, or two.
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", folder)
    words = [part for word in words for part in _parts(word.lower())]
    splits = [_FOLDERS[word] for word in words if word in _FOLDERS]
    rest = [word for word in words if word not in _FOLDERS and word not in _BESIDE_SPLITS]
    return (splits[0], " ".join(rest)) if len(splits) == 1 else None


def _parts(word):
    """Returns a word, or "trainset" as its two words."""
    for suffix in ("set", "data", "images", "imgs"):
        if word.endswith(suffix) and word.removesuffix(suffix) in SPLITS:
            return word.removesuffix(suffix), suffix
    return (word,)


def split_files(arguments: Sequence[str], extension: str, forms: str) -> dict[str, list[str]]:
    """Returns the files that arguments name, by the split that their names give.

    A word in the name of a file or of its folder gives it: train-00000.parquet, val/0000.tar.

    Args:
        arguments: files, folders or patterns.
        extension: of the files in a folder, such as ".parquet".
        forms: how to write the source, for the message.

    Returns:
        {split: names of its files}; {"all": names} if no name gives a split, or all give the same.

    Raises:
        UserError: there is no such file, or only some of them give a split.
    """
    files: list[str] = []
    roots: list[str] = []
    for argument in arguments:
        pattern = os.path.expanduser(argument)
        if os.path.isdir(pattern):
            files += find_files(pattern, (extension,))
            roots.append(pattern)
        else:
            own = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
            files += sorted(own)
            roots += map(os.path.dirname, own)
    if not files:
        raise UserError(f"{', '.join(map(repr, arguments))} matches no file: write {forms}")
    root = os.path.commonpath(roots) or "."
    splits = collections.defaultdict(list)
    for file in files:
        splits[_split_of_path(os.path.relpath(file, root))].append(file)
    if len(splits) == 1:  # one file of many, perhaps only the test file: it will be divided
        return {"all": files}
    if None in splits:
        raise UserError(
            f"{splits[None][0]}: its name gives no split, although other names do: "
            "it must contain the word train, val or test"
        )
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _split_of_path(path):
    """Returns the split that the words of a path give, the last part first; None if none does."""
    for part in reversed(pathlib.PurePath(path).parts):
        words = re.split(r"[^a-z]+", part.lower())
        splits = {SPLITS[word] for word in words if word in SPLITS}
        if splits:
            return splits.pop() if len(splits) == 1 else None
    return None


def find_images(folder: pathlib.Path | str) -> Iterator[str]:
    """Yields the paths of all images below a folder; see `find_files`."""
    return find_files(folder, image_extensions())


def find_files(
    folder: os.PathLike[str] | str, extensions: tuple[str, ...], above: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yields the paths of all files below a folder with one of the extensions, in any case.

    Hidden files and folders, and those of the operating system, are skipped. Links are followed,
    but not in circles; one that leads nowhere is yielded, so that reading it fails.

    Raises:
        UserError: a folder cannot be read.
    """
    real_path = os.path.realpath(folder)
    if real_path in above:
        return
    for entry in list_folder(folder):
        if is_left_out(entry):
            continue
        kind = kind_of(entry)
        if kind == "folder":
            yield from find_files(entry, extensions, (*above, real_path))
        elif kind != "special" and entry.name.lower().endswith(extensions):
            yield entry.path


def list_folder(folder: os.PathLike[str] | str) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder, sorted by name; raises `UserError` if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"folder {os.fspath(folder)!r} cannot be read: {error.strerror}. "
            "Change its permissions, or move it elsewhere"
        ) from error


def is_left_out(entry: os.DirEntry[str]) -> bool:
    """Whether a directory entry is hidden, or a folder of the operating system."""
    return entry.name.startswith(".") or entry.name.lower() in SYSTEM_FOLDERS


def kind_of(entry: os.DirEntry[str]) -> str:
    """Returns "folder", "file", "broken link" or "special" (a pipe, socket or device)."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "special" if os.path.exists(entry.path) else "broken link"
    except OSError:  # a link to itself
        return "broken link"
