"""`cvat:FILE` or `cvat:FOLDER`: the export "CVAT for images 1.1" of the annotation tool CVAT.

An image is labeled by its tag, or else by its shapes, each of which counts by the box around it:
boxes (also rotated), polygons, polylines, points, masks, ellipses, cuboids, skeletons.
`?boxes=crop` gives one image for each shape: see `vision.data.sources._boxes`. The attribute
`subset` tells the split; without it, in a folder of several files, their names do: train.xml,
test.xml. Images are found in images/, beside the file, or in images/SUBSET/.
"""

import math
import os
from pathlib import Path, PurePath

from vision.data.files import SPLITS
from vision.data.findings import Finding
from vision.data.sources._boxes import Photo, bounds, build, find_file
from vision.data.sources._xml import parse_xml
from vision.errors import UserError

_SHAPES = ("box", "polygon", "polyline", "points", "mask", "ellipse", "cuboid", "skeleton")


def open(argument, *, boxes="main", margin="0.1"):
    """Opens an annotation file, or all of a folder's.

    Args:
        argument: the file, or the folder.
        boxes, margin: see `vision.data.sources._boxes.build`.

    Returns:
        {"all": source}, or a dict with some of "train", "val", "test".

    Raises:
        UserError: no such file, malformed, of another form, a subset of an unknown name, or see
            `build`.
    """
    path = Path(argument).expanduser()
    files = sorted(path.glob("*.xml")) if path.is_dir() else [path]
    if not argument or not files:
        raise UserError(f"{argument!r} has no XML file: write cvat:FILE.xml, or cvat:FOLDER")
    findings = []
    photos = []
    for file in files:
        named = SPLITS.get(file.stem.lower(), "all") if path.is_dir() else "all"
        for image in _read(file).iter("image"):
            if photo := _photo(file, image, named, findings):
                photos.append(photo)
    return build(photos, findings, boxes, margin, f"cvat:{argument}")


def _read(file):
    try:
        tree = parse_xml(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    if tree.tag != "annotations":
        raise UserError(f"{file} begins with <{tree.tag}>, where CVAT has <annotations>")
    if tree.find("track") is not None:
        raise UserError(
            f"{file} is of the form 'CVAT for video': export it as 'CVAT for images 1.1'"
        )
    return tree


def _photo(file, image, named, findings):
    name = image.get("name", "")
    subset = image.get("subset", "")
    split = named if subset.lower() in ("", "default") else SPLITS.get(subset.lower())
    if split is None:
        raise UserError(
            f"{file}: subset {subset!r} of {name!r} must be one of {', '.join(SPLITS)}, or default"
        )
    folder = file.parent
    local = name.replace("\\", "/")
    places = [folder / "images" / local, folder / local, folder / "images" / subset / local]
    path = find_file([*places, folder / "images" / PurePath(local).name])
    if path is None:
        findings.append(
            Finding(
                "annotated images do not exist", os.path.normpath(places[0]), str(file), lost=True
            )
        )
        return None
    size = tuple(_number(image, side) or 0 for side in ("width", "height"))
    objects = [(shape.get("label", ""), _box(shape)) for shape in image if shape.tag in _SHAPES]
    return Photo(path, split, size, objects, [tag.get("label", "") for tag in image.findall("tag")])


def _box(shape):
    """Returns the box around a shape, None where it cannot be read."""
    try:
        if shape.tag == "skeleton":
            return bounds([point for part in shape for point in _points(part)])
        if "points" in shape.attrib:
            return bounds(_points(shape))
        if shape.tag == "cuboid":
            corners = [name[1:] for name in shape.attrib if name.startswith(("xt", "xb"))]
            return bounds([(float(shape.get(f"x{c}")), float(shape.get(f"y{c}"))) for c in corners])
        if shape.tag == "mask":
            left, top, width, height = (
                float(shape.get(key)) for key in ("left", "top", "width", "height")
            )
            return left, top, left + width, top + height
        if shape.tag == "ellipse":
            x, y, half_width, half_height = (
                float(shape.get(key)) for key in ("cx", "cy", "rx", "ry")
            )
            box = x - half_width, y - half_height, x + half_width, y + half_height
        else:
            box = tuple(float(shape.get(key)) for key in ("xtl", "ytl", "xbr", "ybr"))
        return _turned(box, math.radians(float(shape.get("rotation", 0))))
    except (TypeError, ValueError):  # an attribute is missing, or no number
        return None


def _points(shape):
    return [tuple(map(float, point.split(","))) for point in shape.get("points").split(";")]


def _turned(box, angle):
    """Returns the box around a box that is turned about its center, by an angle in radians."""
    left, top, right, bottom = box
    x = (left + right) / 2
    y = (top + bottom) / 2
    width = abs((right - left) * math.cos(angle)) + abs((bottom - top) * math.sin(angle))
    height = abs((right - left) * math.sin(angle)) + abs((bottom - top) * math.cos(angle))
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2) if angle else box


def _number(element, key):
    try:
        return float(element.get(key))
    except (TypeError, ValueError):
        return None
