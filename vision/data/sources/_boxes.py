"""From images with boxes to labeled images: each image by its main object, or one crop for each
object.

What the kinds voc, cvat and coco share. Boxes are (left, top, right, bottom) between pixels: a box
around all of an image of 200 x 100 is (0, 0, 200, 100).
"""

import dataclasses
import functools
import math
import os

import numpy as np

from vision.data.decode import UnreadableImage, decode, read_header
from vision.data.files import FileSource
from vision.data.findings import Finding
from vision.data.labels import check_spelling, strip, to_indices
from vision.errors import UserError, check_choice, check_range

# pixels that a box may reach outside unmentioned: formats differ by one in where they count from
TOLERANCE = 1.0


@dataclasses.dataclass
class Photo:
    """An image as its annotation describes it.

    Attributes:
        path: its file, which exists.
        split: "train", "val", "test", or "all".
        size: (width, height) as annotated; zeros where they are not.
        objects: [(label, box)], the box None where the annotation has none that can be read.
        tags: labels of the image as a whole.
    """

    path: str
    split: str
    size: tuple
    objects: list
    tags: list = dataclasses.field(default_factory=list)


class CropSource:
    """A source over the objects in image files.

    Args:
        files: for each object the file of its image.
        numbers: for each object its number in the image, from 1.
        boxes: int (N, 4), which may reach outside of the image.
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        findings: see `Source`.
    """

    encoded = True

    def __init__(self, files, numbers, boxes, labels, classes, findings):
        self.files = files
        self.numbers = numbers
        self.boxes = boxes
        self.labels = np.asarray(labels, np.int32)
        self.classes = classes
        self.findings = findings

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        image = decode(self.files[index])
        left, top, right, bottom = np.maximum(self.boxes[index], 0)
        crop = image[top:bottom, left:right]
        if not crop.size:
            raise UnreadableImage("its box lies outside of the image", self.name(index))
        return {"image": np.ascontiguousarray(crop), "label": int(self.labels[index])}

    def name(self, index):
        return f"{self.files[index]}#{self.numbers[index]}"

    def file(self, index):
        return None


def build(photos, findings, boxes, margin, title):
    """Makes a source of each split.

    Args:
        photos: list of `Photo`.
        findings: what was odd so far.
        boxes: "main": an image is labeled by its tag, else by its largest object. "crop": one image
            for each object.
        margin: text of a number, the share of a box's size that a crop has more on each side.
        title: the source's name, for messages.

    Returns:
        {split: source}.

    Raises:
        UserError: an option out of range, no image, only some images in splits, or fewer than two
            classes.
    """
    check_choice("boxes", boxes, ("main", "crop"))
    try:
        share = float(margin)
    except ValueError:
        share = math.nan
    check_range(
        "margin",
        margin,
        0 <= share <= 10,
        "in [0, 10], the share of a box's size to add on each side",
    )
    if len({photo.split == "all" for photo in photos}) > 1:
        bare = next(photo.path for photo in photos if photo.split == "all")
        raise UserError(f"{title}: {bare} is in none of the splits that others are in")
    findings = [
        *findings,
        *strip([text for p in photos for text in (*p.tags, *(label for label, _ in p.objects))])[1],
    ]
    examples = []
    seen = set()
    for photo in _once(photos, findings):
        objects = _check(photo, findings)
        seen |= {label for _, label, _ in objects}
        examples += (
            _crops(photo, objects, share) if boxes == "crop" else _main(photo, objects, findings)
        )
    labels, classes = to_indices([label for _, _, _, label in examples])
    if len(classes) < 2:
        why = f", for example: {findings[0].kind}: {findings[0]}" if findings else ""
        raise UserError(
            f"{title} has {len(classes)} class(es) with images, and a classifier needs two{why}"
        )
    findings += [
        Finding("classes are no image's main object", name) for name in sorted(seen - set(classes))
    ]
    return _sources(
        photos, examples, labels, classes, (*findings, *check_spelling(labels, classes)), boxes
    )


def _sources(photos, examples, labels, classes, findings, boxes):
    splits = np.array([photo.split for photo, _, _, _ in examples])
    sources = {}
    for name in ("all", "train", "val", "test"):
        rows = np.flatnonzero(splits == name)
        if len(rows):
            files = [examples[i][0].path for i in rows]
            sources[name] = FileSource("", files, labels[rows], classes, findings)
            if boxes == "crop":
                numbers, corners = ([examples[i][part] for i in rows] for part in (1, 2))
                sources[name] = CropSource(
                    files, numbers, np.array(corners), labels[rows], classes, findings
                )
    return sources


def find_file(places):
    """Returns the first of some paths that is a file, None where none is."""
    return next((path for path in map(os.path.normpath, places) if os.path.isfile(path)), None)


def bounds(points):
    """Returns the box around points (x, y); None where there are none, or no numbers."""
    points = np.asarray(points, np.float64).reshape(-1, 2)
    if not len(points) or not np.isfinite(points).all():
        return None
    return (*points.min(0).tolist(), *points.max(0).tolist())


def _once(photos, findings):
    """Yields the photos, each file once."""
    known = set()
    for photo in photos:
        if photo.path in known:
            findings.append(
                Finding("images are annotated more than once, and the first counts", photo.path)
            )
        else:
            known.add(photo.path)
            yield photo


def _check(photo, findings):
    """Returns [(number, label, box)] of the objects that lie in the image, clipped to it."""
    size, turn = _true_size(photo, findings)
    objects = []
    for number, (label, box) in enumerate(photo.objects, start=1):
        name = f"{photo.path}#{number}"
        label = label.strip()
        if not label:
            findings.append(Finding("objects have no label", name, lost=True))
        elif box is None or not all(map(math.isfinite, box)):
            findings.append(Finding("objects have no box that can be read", name, label, lost=True))
        else:
            box = turn(box)
            clipped = (max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1]))
            where = "({:g}, {:g}) to ({:g}, {:g}), of {:g} x {:g}".format(*box, *size)
            if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
                findings.append(
                    Finding("boxes are empty, or outside of their image", name, where, lost=True)
                )
                continue
            if max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > TOLERANCE:
                findings.append(
                    Finding("boxes reach outside of their image, and are cut off", name, where)
                )
            objects.append((number, label, clipped))
    return objects


def _true_size(photo, findings):
    """Returns ((width, height), turn): those of the decoded file, and what brings a box as
    annotated into it.

    Where a camera was held upright, some tools annotate the image as it is stored, which the
    annotated size tells. The size is the annotated one where the file cannot be read, which
    decoding will tell.
    """
    as_it_is = tuple
    try:
        stored, orientation = read_header(photo.path)
    except UnreadableImage:
        return photo.size if all(photo.size) else (math.inf, math.inf), as_it_is
    size = stored[::-1] if orientation >= 5 else stored
    if not any(photo.size) or tuple(photo.size) == size:
        return size, as_it_is
    if tuple(photo.size) == stored:
        detail = f"annotated as {stored[0]} x {stored[1]}, decoded as {size[0]} x {size[1]}"
        findings.append(
            Finding(
                "images are annotated as stored, unturned: boxes are turned too", photo.path, detail
            )
        )
        return size, functools.partial(_turned, orientation, size)
    detail = "{:g} x {:g}, but the file has {} x {}".format(*photo.size, *size)
    findings.append(Finding("annotated sizes differ from their file's", photo.path, detail))
    return size, as_it_is


def _turned(orientation, size, box):
    """Returns a box in an image of EXIF orientation 5 to 8 where decoding brings it, to an image of
    `size`."""
    # columns become rows
    (width, height) = size
    (top, left, bottom, right) = box
    if orientation in (6, 7):
        left, right = width - right, width - left
    if orientation in (7, 8):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _main(photo, objects, findings):
    """Returns [(photo, 0, None, label)], or nothing where there is no label."""
    tags = list(dict.fromkeys(tag.strip() for tag in photo.tags if tag.strip()))
    labels = list(dict.fromkeys(label for _, label, _ in objects))
    if len(tags) > 1:
        detail = f"{', '.join(map(repr, tags))}: labeled {tags[0]!r}"
        findings.append(
            Finding("images have several tags, and the first counts", photo.path, detail)
        )
    if tags:
        return [(photo, 0, None, tags[0])]
    if not labels:
        findings.append(Finding("images have no object", photo.path, lost=True))
        return []
    _, label, _ = max(objects, key=lambda o: (o[2][2] - o[2][0]) * (o[2][3] - o[2][1]))
    if len(labels) > 1:
        detail = f"{', '.join(map(repr, labels))}: labeled {label!r}"
        findings.append(
            Finding(
                "images hold objects of several classes: labeled by the largest", photo.path, detail
            )
        )
    return [(photo, 0, None, label)]


def _crops(photo, objects, share):
    """Returns [(photo, number, box in whole pixels, label)]."""
    crops = []
    for number, label, (left, top, right, bottom) in objects:
        x = share * (right - left)
        y = share * (bottom - top)
        box = math.floor(left - x), math.floor(top - y), math.ceil(right + x), math.ceil(bottom + y)
        crops.append((photo, number, box, label))
    return crops
