"""`voc:FOLDER`: an XML file per image in Pascal VOC format, as LabelImg and others write it too.

Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge". Roboflow and datumaro
also write this format. Annotations and images may be anywhere below the folder:

    FOLDER/Annotations/*.xml, FOLDER/JPEGImages/*.jpg, FOLDER/ImageSets/Main/{train,val,test}.txt
    FOLDER/{train,valid,test}/*.xml and *.jpg, side by side
    FOLDER/annotations/*.xml, FOLDER/images/*.jpg

`?boxes=crop` gives one image per object: see `vision.data.sources._boxes`.

Pixels count from 1 in VOC and a box includes its last one: xmin = 1 to xmax = 200 is all of 200
columns, here 0 to 200. LabelImg and datumaro write edges between pixels, from 0, in the same
format, and a file does not show which is meant: their boxes become wider by one column and row.
"""

import collections
import functools
import os
from pathlib import Path, PurePath

from vision.data.files import SPLITS, find_files, find_images
from vision.data.findings import Finding
from vision.data.sources import Source
from vision.data.sources._boxes import Photo, build
from vision.data.untrusted_xml import parse_xml
from vision.errors import UserError, brief
from vision.support.reading import read_bytes

# of ImageSets/Main; later ones take precedence, so that nothing is tested on training images
_LISTS = ("trainval", *SPLITS)


def open(argument: str, *, boxes: str = "main", margin: str = "0.1") -> dict[str, Source]:
    """Opens a folder of annotations.

    Args:
        argument: the folder.
        boxes: see `vision.data.sources._boxes.build`.
        margin: see `vision.data.sources._boxes.build`.

    Returns:
        {"all": source}; a dict with some of "train", "val", "test" if ImageSets/Main lists them, or
        if every annotation is below a folder of that name.

    Raises:
        UserError: no such folder, no annotations in it, or see `build`.
    """
    root = os.path.expanduser(argument)
    if not argument or not os.path.isdir(root):
        raise UserError(
            f"folder {argument!r} does not exist: "
            "write voc:FOLDER, where FOLDER contains XML files and images"
        )
    annotations = list(find_files(root, (".xml",)))
    if not annotations:
        raise UserError(f"folder {argument!r} has no XML files")
    findings: list[Finding] = []
    splits = _listed_splits(root, annotations, findings) or _folder_splits(root, annotations)
    images = _Images(root)
    photos = []
    for path in annotations:
        if path not in splits:
            kind = "annotations are not listed in ImageSets/Main and are left out"
            findings.append(Finding(kind, path))
            images.find(path)
        elif photo := _read(path, splits[path], images, findings):
            photos.append(photo)
    for path in sorted(images.paths - images.matched):
        findings.append(Finding("images have no annotation and are left out", path))
    return build(photos, findings, boxes, margin, f"voc:{argument}", root)


def _read(path, split, images, findings):
    """Returns the photo that an annotation describes, or None; adds its problems to `findings`."""
    try:
        tree = parse_xml(read_bytes(path))
        if tree.tag != "annotation":
            raise ValueError(f"<{tree.tag}> instead of VOC's <annotation>")
    except (UserError, ValueError) as error:
        findings.append(Finding("annotations cannot be read", path, brief(error), lost=True))
        images.find(path)
        return None
    image, remark = images.find(path, _file_name(tree, "filename"), _file_name(tree, "path"))
    if image is None:
        findings.append(Finding("annotations have no image", path, remark, lost=True))
        return None
    if remark:
        kind = "annotations name a different image than the one with their own name"
        findings.append(Finding(kind, path, remark))
    width, height = (_number(tree.find("size"), side) or 0 for side in ("width", "height"))
    objects = [(o.findtext("name") or "", _box(o.find("bndbox"))) for o in tree.findall("object")]
    return Photo(image, split, (width, height), objects)


def _file_name(tree, tag):
    """Returns the file name of the path in an element; "" if there is none."""
    return PurePath((tree.findtext(tag) or "").strip().replace("\\", "/")).name


def _box(element):
    corners = [_number(element, side) for side in ("xmin", "ymin", "xmax", "ymax")]
    if None in corners:
        return None
    left, top, right, bottom = corners
    return left - 1, top - 1, right, bottom


def _number(element, tag):
    try:
        return float(element.findtext(tag))
    except (AttributeError, TypeError, ValueError):  # no such element, an empty one, not a number
        return None


def _listed_splits(root, annotations, findings):
    """Returns {annotation: split} from ImageSets/Main; {} if there are no lists.

    The lists contain names without extension.
    """
    folder = Path(root) / "ImageSets" / "Main"
    lists = {name: folder / f"{name}.txt" for name in _LISTS}
    lists = {name: path for name, path in lists.items() if path.is_file()}
    if not lists:
        return {}
    by_path, by_stem = _index(root, annotations)
    list_of = {}  # annotation: the last list that contains it
    for name, list_path in lists.items():
        split = SPLITS.get(name, "train")
        lines = list_path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
        for line in filter(None, map(str.strip, lines)):
            path = by_path.get(line) or next(iter(by_stem.get(PurePath(line).name, [])), None)
            if path is None:
                kind = "listed images have no annotation"
                findings.append(Finding(kind, f"{list_path}: {line}", lost=True))
                continue
            previous = list_of.get(path, name)
            allowed = ("train", "val") if previous == "trainval" else (SPLITS[previous],)
            if split not in allowed:
                kind = "images are listed in several splits"
                findings.append(Finding(kind, path, f"kept in {split}"))
            list_of[path] = name
    return {path: SPLITS.get(name, "train") for path, name in list_of.items()}


def _index(root, annotations):
    """Returns ({path below Annotations/, without extension: annotation}, {stem: annotations})."""
    by_path = {}
    by_stem = collections.defaultdict(list)
    for path in annotations:
        parts = PurePath(os.path.relpath(path, root)).with_suffix("").parts
        by_path["/".join(parts[1:] or parts)] = path
        by_stem[parts[-1]].append(path)
    return by_path, by_stem


def _folder_splits(root, annotations):
    """Returns {annotation: split} by the folders that contain them."""
    splits = {}
    for path in annotations:
        folders = PurePath(os.path.relpath(path, root)).parts[:-1]
        named = (SPLITS[folder.lower()] for folder in folders if folder.lower() in SPLITS)
        splits[path] = next(named, "all")
    return splits


class _Images:
    """The images below a folder, by name.

    Attributes:
        paths: all of them.
        matched: those that an annotation may have meant.
    """

    def __init__(self, root):
        self.paths = set(find_images(root))
        self.matched = set()
        self._by_stem = collections.defaultdict(list)
        for path in sorted(self.paths):
            self._by_stem[PurePath(path).stem.lower()].append(path)

    def find(self, annotation, *names):
        """Returns (path, remark) of the image that an annotation belongs to.

        An image with the annotation's own name takes precedence over the names in the annotation,
        because files get renamed while their contents stay. Of several images, the one in the
        nearest folder is taken.

        Returns:
            (path, another image that the annotation names, or ""), or (None, reason).
        """
        names = [name for name in names if name]
        own = self._nearest(annotation, PurePath(annotation).stem, names)
        by_name = [
            self._nearest(annotation, stem, names) for n in names for stem in (PurePath(n).stem, n)
        ]
        named = next((paths for paths in by_name if paths), [])
        matches = own or named
        self.matched.update(matches)
        if not matches:
            return None, f"no image is named {' or '.join(names) or 'like it'}"
        if len(matches) > 1:
            return None, f"several match: {', '.join(matches)}"
        return matches[0], named[0] if own and len(named) == 1 and named != own else ""

    def _nearest(self, annotation, stem, names):
        """Returns the images with that name, without extension, that fit best."""
        candidates = self._by_stem.get(stem.lower(), [])
        if len(candidates) < 2:
            return candidates
        scores = {}
        folder = os.path.dirname(annotation)
        for path in candidates:
            image_folder, name = os.path.split(path)
            scores[path] = (
                os.path.splitext(name)[0] == stem,
                _shared_folders(image_folder, folder),
                name in names,
            )
        best = max(scores.values())
        return [path for path, score in scores.items() if score == best]


@functools.lru_cache(1 << 16)  # frames of many videos have the same few folders
def _shared_folders(folder, other_folder):
    """Counts the folders that two paths have in common, from the front and from the back."""
    a = PurePath(folder).parts
    b = PurePath(other_folder).parts
    from_front = os.path.commonprefix([list(a), list(b)])
    from_back = os.path.commonprefix([list(a[::-1]), list(b[::-1])])
    return len(from_front) + len(from_back)
