"""`voc:FOLDER`: an XML file for each image, in the form of Pascal VOC, as LabelImg, Roboflow and
datumaro write it too.

Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge". Annotations and images
may lie anywhere below the folder:

    FOLDER/Annotations/*.xml, FOLDER/JPEGImages/*.jpg, FOLDER/ImageSets/Main/{train,val,test}.txt
    FOLDER/{train,valid,test}/*.xml and *.jpg, side by side
    FOLDER/annotations/*.xml, FOLDER/images/*.jpg

`?boxes=crop` gives one image for each object: see `vision.data.sources._boxes`.

Pixels count from 1 in VOC and a box includes its last one: xmin = 1 to xmax = 200 is all of 200
columns, here 0 to 200. LabelImg and datumaro write edges between pixels, from 0, in the same form,
which a file does not tell: their boxes come out wider by one column and row.
"""

import collections
import functools
import os
from pathlib import Path, PurePath

from vision.data.files import SPLITS, find_files, find_images
from vision.data.findings import Finding
from vision.data.sources._boxes import Photo, build
from vision.data.sources._xml import parse_xml
from vision.errors import UserError

# of ImageSets/Main; the later win, so that nothing is tested on what was learned from
_LISTS = ("trainval", *SPLITS)


def open(argument, *, boxes="main", margin="0.1"):
    """Opens a folder of annotations.

    Args:
        argument: the folder.
        boxes, margin: see `vision.data.sources._boxes.build`.

    Returns:
        {"all": source}; a dict with some of "train", "val", "test" where ImageSets/Main lists them,
        or every annotation lies below a folder of that name.

    Raises:
        UserError: no such folder, no annotations in it, or see `build`.
    """
    root = os.path.expanduser(argument)
    if not argument or not os.path.isdir(root):
        raise UserError(
            f"folder {argument!r} does not exist: write voc:FOLDER, which holds XML files and images"
        )
    annotations = list(find_files(root, (".xml",)))
    if not annotations:
        raise UserError(f"folder {argument!r} has no XML files")
    findings = []
    splits = _listed_splits(root, annotations, findings) or _folder_splits(root, annotations)
    images = _Images(root)
    photos = []
    for path in annotations:
        if path not in splits:
            findings.append(
                Finding("annotations are in no list of ImageSets/Main, and are left out", path)
            )
            images.find(path)
        elif photo := _read(path, splits[path], images, findings):
            photos.append(photo)
    for path in sorted(images.paths - images.asked):
        findings.append(Finding("images have no annotation, and are left out", path))
    return build(photos, findings, boxes, margin, f"voc:{argument}")


def _read(path, split, images, findings):
    """Returns the photo that an annotation describes, or None; adds to `findings` what is wrong
    with it."""
    try:
        tree = parse_xml(Path(path).read_bytes())
        if tree.tag != "annotation":
            raise ValueError(f"<{tree.tag}>, where VOC has <annotation>")
    except (OSError, ValueError) as error:
        findings.append(Finding("annotations cannot be read", path, str(error), lost=True))
        images.find(path)
        return None
    named = PurePath(_text(tree, "filename").replace("\\", "/")).name
    image, reason = images.find(path, named, PurePath(_text(tree, "path").replace("\\", "/")).name)
    if image is None:
        findings.append(Finding("annotations have no image", path, reason, lost=True))
        return None
    if reason:
        findings.append(
            Finding("annotations name another image than the one called like them", path, reason)
        )
    size = tuple(_number(tree.find("size"), side) or 0 for side in ("width", "height"))
    return Photo(
        image,
        split,
        size,
        [(o.findtext("name") or "", _box(o.find("bndbox"))) for o in tree.findall("object")],
    )


def _box(element):
    corners = [_number(element, side) for side in ("xmin", "ymin", "xmax", "ymax")]
    if None in corners:
        return None
    left, top, right, bottom = corners
    return left - 1, top - 1, right, bottom


def _text(element, tag):
    return (element.findtext(tag) or "").strip()


def _number(element, tag):
    try:
        return float(element.findtext(tag))
    except (AttributeError, TypeError, ValueError):  # no such element, nothing in it, or no number
        return None


def _listed_splits(root, annotations, findings):
    """Returns {annotation: split} from ImageSets/Main, which lists names without extension; {}
    where it does not."""
    folder = Path(root) / "ImageSets" / "Main"
    lists = {}
    for name in _LISTS:
        if (folder / f"{name}.txt").is_file():
            lists[name] = (
                (folder / f"{name}.txt")
                .read_text(encoding="utf-8-sig", errors="replace")
                .split("\n")
            )
    if not lists:
        return {}
    paths = {}
    stems = collections.defaultdict(list)
    for path in annotations:
        parts = PurePath(os.path.relpath(path, root)).with_suffix("").parts
        paths["/".join(parts[1:] or parts)] = path  # below Annotations/
        stems[parts[-1]].append(path)
    chosen = {}  # annotation: the last list that has it
    for name, lines in lists.items():
        split = SPLITS.get(name, "train")
        for line in filter(None, map(str.strip, lines)):
            path = paths.get(line) or next(iter(stems.get(PurePath(line).name, [])), None)
            if path is None:
                where = os.path.join(folder, f"{name}.txt")
                findings.append(
                    Finding("listed images have no annotation", f"{where}: {line}", lost=True)
                )
                continue
            before = chosen.get(path, name)
            if split not in (("train", "val") if before == "trainval" else (SPLITS[before],)):
                findings.append(
                    Finding("images are listed in several splits", path, f"kept in {split}")
                )
            chosen[path] = name
    return {path: SPLITS.get(name, "train") for path, name in chosen.items()}


def _folder_splits(root, annotations):
    """Returns {annotation: split} by the folders they lie in."""
    splits = {}
    for path in annotations:
        parts = PurePath(os.path.relpath(path, root)).parts[:-1]
        splits[path] = next(
            (SPLITS[part.lower()] for part in parts if part.lower() in SPLITS), "all"
        )
    return splits


class _Images:
    """The images below a folder, by their names.

    Attributes:
        paths: all of them.
        asked: those that an annotation might have meant.
    """

    def __init__(self, root):
        self._root = root
        self.paths = set(find_images(root))
        self.asked = set()
        self._by_stem = collections.defaultdict(list)
        for path in sorted(self.paths):
            self._by_stem[PurePath(path).stem.lower()].append(path)

    def find(self, annotation, *named):
        """Returns (path, remark) of the image that an annotation belongs to.

        An image that is called like its annotation is it, whatever the annotation names: files are
        renamed, and what stands in them is not. Else it is the one named. Of several, it is the one
        in the nearest folder.

        Returns:
            (None, why) where there is none.
        """
        named = [name for name in named if name]
        own = self._nearest(annotation, PurePath(annotation).stem, named)
        others = [
            self._nearest(annotation, stem, named) for n in named for stem in (PurePath(n).stem, n)
        ]
        other = next((paths for paths in others if paths), [])
        found = own or other
        self.asked.update(found)
        if len(found) != 1:
            return (
                None,
                f"several fit: {', '.join(found)}"
                if found
                else f"called {' or '.join(named) or 'so'}",
            )
        return found[0], other[0] if own and len(other) == 1 and other != own else ""

    def _nearest(self, annotation, stem, named):
        """Returns the images of that name, without extension, that fit best."""

        fitting = self._by_stem.get(stem.lower(), [])
        if len(fitting) < 2:
            return fitting
        fits = {}
        folder = os.path.dirname(annotation)
        for path in fitting:
            above, name = os.path.split(path)
            fits[path] = (
                os.path.splitext(name)[0] == stem,
                _shared_folders(above, folder),
                name in named,
            )
        best = max(fits.values())
        return [path for path, fit in fits.items() if fit == best]


@functools.lru_cache(1 << 16)  # frames of many videos have the same few names
def _shared_folders(folder, other):
    """Counts the folders that two paths have in common, from the front and from the back."""
    ours = PurePath(folder).parts
    theirs = PurePath(other).parts
    return sum(
        len(os.path.commonprefix([list(a), list(b)]))
        for a, b in ((ours, theirs), (ours[::-1], theirs[::-1]))
    )
