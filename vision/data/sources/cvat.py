"""`cvat:FILE` or `cvat:FOLDER`: the export "CVAT for images 1.1" of the annotation tool CVAT.

An image is labeled by its tag, or else by its shapes, each of which counts as the box around it:
boxes (also rotated), polygons, polylines, points, masks, ellipses, cuboids, skeletons.
`?boxes=crop` gives one image per shape: see `vision.data.sources._boxes`. The attribute `subset`
gives the split; without it, in a folder of several files, the file names do: train.xml, test.xml.
Images are searched for in images/, beside the file, and in images/SUBSET/. `?attribute=NAME` labels
by an attribute of the tags and shapes in place of their label.
"""

import math
import os
from pathlib import Path, PurePath

from vision.data.files import SPLITS
from vision.data.findings import Finding
from vision.data.sources import Source
from vision.data.sources._boxes import Photo, bounds, build, check_attribute
from vision.data.sources._paths import ELSEWHERE, find_file, locate
from vision.data.untrusted_xml import parse_xml
from vision.errors import UserError, brief
from vision.support.reading import read_bytes

_SHAPES = ("box", "polygon", "polyline", "points", "mask", "ellipse", "cuboid", "skeleton")


def open(
    argument: str, *, boxes: str = "main", margin: str = "0.1", attribute: str = ""
) -> dict[str, Source]:
    """Opens an annotation file, or all files of a folder.

    Args:
        argument: the file, or the folder.
        boxes: see `vision.data.sources._boxes.build`.
        margin: see `vision.data.sources._boxes.build`.
        attribute: the attribute that labels tags and shapes; "" for their label.

    Returns:
        {"all": source}, or a dict with some of "train", "val", "test".

    Raises:
        UserError: no such file, malformed, of another format, a subset with an unknown name, or see
            `build`.
    """
    path = Path(argument).expanduser()
    files = sorted(path.glob("*.xml")) if path.is_dir() else [path]
    if not argument or not files:
        raise UserError(f"{argument!r} has no XML file: write cvat:FILE.xml, or cvat:FOLDER")
    findings: list[Finding] = []
    photos = []
    attributes: dict[str, set[str]] = {}
    for file in files:
        default_split = SPLITS.get(file.stem.lower(), "all") if path.is_dir() else "all"
        for image in _read(file).iter("image"):
            _collect_attributes(image, attributes)
            if photo := _photo(file, image, default_split, attribute, findings):
                photos.append(photo)
    findings += check_attribute(attribute, attributes, f"cvat:{argument}")
    base = path if path.is_dir() else path.parent
    return build(photos, findings, boxes, margin, f"cvat:{argument}", base)


def _read(file):
    try:
        tree = parse_xml(read_bytes(file))
    except ValueError as error:
        raise UserError(f"{file}: {brief(error)}") from error
    if tree.tag != "annotations":
        raise UserError(f"{file} begins with <{tree.tag}> instead of CVAT's <annotations>")
    if tree.find("track") is not None:
        raise UserError(
            f"{file} is in the format 'CVAT for video': export it as 'CVAT for images 1.1'"
        )
    return tree


def _photo(file, image, default_split, attribute, findings):
    """Returns the photo that an element describes, or None; adds its problems to `findings`."""
    name = image.get("name", "")
    subset = image.get("subset", "")
    split = default_split
    if subset.lower() not in ("", "default"):
        split = SPLITS.get(subset.lower())
    if split is None:
        raise UserError(
            f"{file}: subset of {name!r} must be one of {', '.join(SPLITS)}, or default, "
            f"got {subset!r}"
        )
    folder = file.parent
    local = name.replace("\\", "/")
    candidates = [folder / "images" / local, folder / local, folder / "images" / subset / local]
    path = find_file([*candidates, folder / "images" / PurePath(local).name])
    if path is None:
        path, guessed = locate(local, [str(folder / "images"), str(folder)])
        if guessed:
            findings.append(Finding(ELSEWHERE, name, path))
    if path is None:
        kind = "annotated images do not exist"
        findings.append(Finding(kind, os.path.normpath(candidates[0]), str(file), lost=True))
        return None
    width, height = (_number(image, side) or 0 for side in ("width", "height"))
    objects = [(_label(shape, attribute), _box(shape)) for shape in image if shape.tag in _SHAPES]
    tags = [_label(tag, attribute) for tag in image.findall("tag")]
    return Photo(path, split, (width, height), objects, tags)


def _label(element, attribute):
    """Returns the label of a tag or shape: its own, or the value of an attribute."""
    if not attribute:
        return element.get("label", "")
    values = (a.text or "" for a in element.findall("attribute") if a.get("name") == attribute)
    return next(values, "")


def _collect_attributes(image, attributes):
    """Adds the attributes of an image's tags and shapes to {name: values}."""
    for element in image:
        for attribute in element.findall("attribute"):
            values = attributes.setdefault(attribute.get("name", ""), set())
            values.add((attribute.text or "").strip())


def _box(shape):
    """Returns the box around a shape; None if it cannot be read."""
    try:
        if shape.tag == "skeleton":
            return bounds([point for part in shape for point in _points(part)])
        if "points" in shape.attrib:
            return bounds(_points(shape))
        if shape.tag == "cuboid":
            corners = [name[1:] for name in shape.attrib if name.startswith(("xt", "xb"))]
            return bounds([_numbers(shape, f"x{corner}", f"y{corner}") for corner in corners])
        if shape.tag == "mask":
            left, top, width, height = _numbers(shape, "left", "top", "width", "height")
            return left, top, left + width, top + height
        if shape.tag == "ellipse":
            x, y, half_width, half_height = _numbers(shape, "cx", "cy", "rx", "ry")
            box = x - half_width, y - half_height, x + half_width, y + half_height
        else:
            box = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
        return _bounds_rotated(box, math.radians(float(shape.get("rotation", 0))))
    except (TypeError, ValueError):  # an attribute is missing or not a number
        return None


def _points(shape):
    return [tuple(map(float, point.split(","))) for point in shape.get("points").split(";")]


def _numbers(shape, *keys):
    return tuple(float(shape.get(key)) for key in keys)


def _bounds_rotated(box, angle):
    """Returns the box around a box that is rotated about its center, by an angle in radians."""
    if not angle:
        return box
    left, top, right, bottom = box
    x = (left + right) / 2
    y = (top + bottom) / 2
    width = abs((right - left) * math.cos(angle)) + abs((bottom - top) * math.sin(angle))
    height = abs((right - left) * math.sin(angle)) + abs((bottom - top) * math.cos(angle))
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _number(element, key):
    try:
        return float(element.get(key))
    except (TypeError, ValueError):
        return None
