"""From images with boxes to labeled images: each image by its main object, or one crop per object.

What the kinds voc, cvat and coco share. Boxes are (left, top, right, bottom) between pixels: a box
around all of a 200 x 100 image is (0, 0, 200, 100).
"""

import dataclasses
import functools
import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vision.data.decode import UnreadableImage, decode, read_header
from vision.data.files import FileSource, portable
from vision.data.findings import Finding
from vision.data.labels import check_spelling, require_two_classes, strip, to_indices
from vision.data.sources import Source
from vision.errors import UserError, check_choice, check_range

# pixels that a box may extend outside the image without a finding: formats disagree by one about
# where pixels start to count
TOLERANCE = 1.0

Box = tuple[float, float, float, float]


@dataclasses.dataclass
class Photo:
    """An image as its annotation describes it.

    Attributes:
        path: its file, which exists.
        split: "train", "val", "test", or "all".
        size: (width, height) as annotated; zeros if they are not.
        objects: [(label, box)], the box None if the annotation has no readable one.
        tags: labels of the image as a whole.
        caption: a text about it; None if there is none.
    """

    path: str
    split: str
    size: tuple[float, float]
    objects: list[tuple[str, Box | None]]
    tags: list[str] = dataclasses.field(default_factory=list)
    caption: str | None = None


class _Example(NamedTuple):
    """A labeled image: a photo, and for a crop the object's number and box in whole pixels."""

    photo: Photo
    label: str
    number: int = 0
    box: tuple[int, int, int, int] | None = None


class CropSource:
    """A source over the objects in image files.

    Args:
        files: for each object the file of its image.
        numbers: for each object its number in the image, from 1.
        boxes: int (N, 4); they may extend outside the image.
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        findings: see `Source`.
        base: the folder that the images' keys are relative to.
    """

    encoded = True
    bits = 0

    def __init__(
        self,
        files: Sequence[str],
        numbers: Sequence[int],
        boxes: np.ndarray,
        labels: np.ndarray,
        classes: tuple[str, ...],
        findings: tuple[Finding, ...],
        base: str = "",
    ):
        self.base = base
        self.files = files
        self.numbers = numbers
        self.boxes = boxes
        self.labels = np.asarray(labels, np.int32)
        self.classes = classes
        self.findings = findings

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        image = decode(self.files[index], bits=self.bits)
        left, top, right, bottom = np.maximum(self.boxes[index], 0)
        crop = image[top:bottom, left:right]
        if not crop.size:
            raise UnreadableImage("its box is outside the image", self.name(index))
        return {"image": np.ascontiguousarray(crop), "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        return f"{self.files[index]}#{self.numbers[index]}"

    def keys(self) -> list[str]:
        """Returns each object's photo and its number there, "a/1.jpg#2": see `Source`."""
        photos = self.photos()
        return [f"{photo}#{number}" for photo, number in zip(photos, self.numbers, strict=True)]

    def photos(self) -> list[str]:
        """Returns the path of each object's photo from `base`: its objects stay in one split."""
        return [portable(os.path.relpath(file, self.base or ".")) for file in self.files]

    def file(self, index: int) -> bytes | None:
        return None


def build(
    photos: Sequence[Photo],
    findings: Sequence[Finding],
    boxes: str,
    margin: str,
    title: str,
    base: os.PathLike[str] | str,
) -> dict[str, Source]:
    """Makes a source for each split.

    Args:
        photos: the annotated images.
        findings: what was odd so far.
        boxes: "main" labels an image by its tag, or else by its largest object. "crop" gives one
            image per object.
        margin: text of a number: the share of a box's size by which a crop is larger on each side.
        title: the source's name, for messages.
        base: the folder that the images' keys are relative to.

    Returns:
        {split: source}.

    Raises:
        UserError: an option out of range, no image, only some images in splits, or fewer than two
            classes.
    """
    check_choice("boxes", boxes, ("main", "crop"))
    share = _parse_margin(margin)
    if len({photo.split == "all" for photo in photos}) > 1:
        unassigned = next(photo.path for photo in photos if photo.split == "all")
        raise UserError(f"{title}: {unassigned} is in no split, although other images are")
    texts = [text for p in photos for text in (*p.tags, *(label for label, _ in p.objects))]
    _, spelling_findings = strip(texts)
    findings = [*findings, *spelling_findings]
    examples = []
    object_labels = set()
    for photo in _unique(photos, findings):
        objects = _clip_objects(photo, findings)
        object_labels |= {label for _, label, _ in objects}
        if boxes == "crop":
            examples += _crops(photo, objects, share)
        else:
            examples += _main(photo, objects, findings)
    labels, classes = to_indices([example.label for example in examples])
    require_two_classes(title, classes, findings)
    kind = "classes are not the main object of any image"
    findings += [Finding(kind, name) for name in sorted(object_labels - set(classes))]
    findings += check_spelling(labels, classes)
    return _sources(examples, labels, classes, tuple(findings), os.fspath(base) or ".")


def _parse_margin(text):
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    rule = "in [0, 10], the share of a box's size to add on each side"
    check_range("margin", text, 0 <= share <= 10, rule)
    return share


def _sources(examples, labels, classes, findings, base):
    splits = np.array([example.photo.split for example in examples])
    sources: dict[str, Source] = {}
    for name in ("all", "train", "val", "test"):
        rows = np.flatnonzero(splits == name)
        if not len(rows):
            continue
        chosen = [examples[i] for i in rows]
        files = [example.photo.path for example in chosen]
        if chosen[0].box is None:
            sources[name] = FileSource("", files, labels[rows], classes, findings, base)
        else:
            numbers = [example.number for example in chosen]
            corners = np.array([example.box for example in chosen])
            sources[name] = CropSource(
                files, numbers, corners, labels[rows], classes, findings, base
            )
    return sources


def check_attribute(
    chosen: str, values: Mapping[str, Collection[str]], title: str
) -> list[Finding]:
    """Returns a finding for each attribute that may be what to learn, if none is chosen.

    Args:
        chosen: the attribute that labels the objects; "" for none.
        values: {name of an attribute: its values, texts}.
        title: the source's name, for messages.

    Raises:
        UserError: no object has the chosen attribute.
    """
    if chosen and chosen not in values:
        names = f"choose from {', '.join(map(repr, values))}" if values else "they have none"
        raise UserError(f"{title}: no object has the attribute {chosen!r}: {names}")
    if chosen:
        return []
    kind = "attributes are not used: ?attribute=NAME labels objects by one"
    flags = {"true", "false", ""}
    return [
        Finding(kind, name, ", ".join(sorted(texts)[:8]))
        for name, texts in values.items()
        if len(texts) > 1 and not {text.lower() for text in texts} <= flags
    ]


def bounds(points: Sequence) -> Box | None:
    """Returns the box around points (x, y); None if there are none, or not finite numbers."""
    coordinates = np.asarray(points, np.float64).reshape(-1, 2)
    if not len(coordinates) or not np.isfinite(coordinates).all():
        return None
    left, top = coordinates.min(0).tolist()
    right, bottom = coordinates.max(0).tolist()
    return left, top, right, bottom


def _unique(photos, findings):
    """Yields the photos, each file once."""
    seen = set()
    for photo in photos:
        if photo.path in seen:
            kind = "images are annotated more than once; the first annotation is used"
            findings.append(Finding(kind, photo.path))
        else:
            seen.add(photo.path)
            yield photo


def _clip_objects(photo, findings):
    """Returns [(number, label, box)] of the objects in the image, clipped to it."""
    (width, height), rotate = _true_size(photo, findings)
    objects = []
    for number, (label, box) in enumerate(photo.objects, start=1):
        name = f"{photo.path}#{number}"
        label = label.strip()
        if not label:
            findings.append(Finding("objects have no label", name, lost=True))
        elif box is None or not all(map(math.isfinite, box)):
            findings.append(Finding("objects have no readable box", name, label, lost=True))
        else:
            box = rotate(box)
            clipped = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
            detail = "({:g}, {:g}) to ({:g}, {:g}), of {:g} x {:g}".format(*box, width, height)
            if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
                kind = "boxes are empty or outside their image"
                findings.append(Finding(kind, name, detail, lost=True))
                continue
            if max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > TOLERANCE:
                kind = "boxes extend outside their image and are clipped"
                findings.append(Finding(kind, name, detail))
            objects.append((number, label, clipped))
    return objects


def _true_size(photo, findings):
    """Returns ((width, height), rotate): the decoded size, and a function from annotated boxes.

    If the camera was held upright, some tools annotate the image as it is stored, which shows in
    the annotated size. The size is the annotated one if the file cannot be read, which decoding
    will report.
    """
    unchanged = tuple
    try:
        stored, orientation = read_header(photo.path)
    except UnreadableImage:
        return photo.size if all(photo.size) else (math.inf, math.inf), unchanged
    size = stored[::-1] if orientation >= 5 else stored
    if not any(photo.size) or tuple(photo.size) == size:
        return size, unchanged
    if tuple(photo.size) == stored:
        kind = "images are annotated before EXIF rotation: boxes are rotated too"
        detail = f"annotated as {stored[0]} x {stored[1]}, decoded as {size[0]} x {size[1]}"
        findings.append(Finding(kind, photo.path, detail))
        return size, functools.partial(_rotate, orientation, size)
    detail = "{:g} x {:g}, but the file has {} x {}".format(*photo.size, *size)
    findings.append(Finding("annotated sizes differ from the file's", photo.path, detail))
    return size, unchanged


def _rotate(orientation, size, box):
    """Moves a box from an image as stored, with EXIF orientation 5 to 8, to the decoded image.

    Args:
        orientation: 5 to 8.
        size: (width, height) of the decoded image.
        box: in the image as stored.
    """
    width, height = size
    top, left, bottom, right = box  # columns become rows
    if orientation in (6, 7):
        left, right = width - right, width - left
    if orientation in (7, 8):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _main(photo, objects, findings):
    """Returns the photo as one example in a list; an empty list if it has no label."""
    tags = list(dict.fromkeys(tag.strip() for tag in photo.tags if tag.strip()))
    labels = list(dict.fromkeys(label for _, label, _ in objects))
    if len(tags) > 1:
        detail = f"{', '.join(map(repr, tags))}: labeled {tags[0]!r}"
        kind = "images have several tags; the first is used"
        findings.append(Finding(kind, photo.path, detail))
    if tags:
        return [_Example(photo, tags[0])]
    if not labels:
        findings.append(Finding("images have no objects", photo.path, lost=True))
        return []
    _, label, _ = max(objects, key=lambda o: (o[2][2] - o[2][0]) * (o[2][3] - o[2][1]))
    if len(labels) > 1:
        detail = f"{', '.join(map(repr, labels))}: labeled {label!r}"
        kind = "images contain objects of several classes: labeled by the largest"
        findings.append(Finding(kind, photo.path, detail))
    return [_Example(photo, label)]


def _crops(photo, objects, share):
    """Returns an example per object, its box enlarged by the share on each side."""
    crops = []
    for number, label, (left, top, right, bottom) in objects:
        x = share * (right - left)
        y = share * (bottom - top)
        box = math.floor(left - x), math.floor(top - y), math.ceil(right + x), math.ceil(bottom + y)
        crops.append(_Example(photo, label, number, box))
    return crops
