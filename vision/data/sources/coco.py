"""`coco:FILE` or `coco:FOLDER`: object detection annotations in the JSON of COCO.

Lin et al. 2014, "Microsoft COCO: Common Objects in Context" (arXiv:1405.0312). A folder's splits:

    FOLDER/annotations/instances_{train,val,test}*.json       COCO itself, datumaro, CVAT
    FOLDER/{train,valid,test}/_annotations.coco.json          Roboflow

Images are found beside the file, in images/, in images/SPLIT/, and in the same places a folder
above. An image is labeled by its largest object; `?boxes=crop` gives one image for each object: see
`vision.data.sources._boxes`.
"""

import collections
import json
import os
import re
from pathlib import Path

from vision.data.files import SPLITS
from vision.data.findings import Finding
from vision.data.sources._boxes import Photo, bounds, build, find_file
from vision.errors import UserError

_NAME = re.compile(
    rf"(?:instances_)?({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?![a-z]).*\.json", re.I
)


def open(argument, *, boxes="main", margin="0.1"):
    """Opens an annotation file, or those of a folder.

    Args:
        argument: the file, or the folder.
        boxes, margin: see `vision.data.sources._boxes.build`.

    Returns:
        {"all": source} of a file, or a dict with some of "train", "val", "test" of a folder.

    Raises:
        UserError: no such file, malformed, of another form, two files for one split, or see
            `build`.
    """
    path = Path(argument).expanduser()
    files = _split_files(path) if path.is_dir() else {"all": path}
    if not argument or not files:
        raise UserError(
            f"{argument!r} has no annotations/instances_train.json nor train/_annotations.coco.json: write coco:FILE"
        )
    findings = []
    photos = []
    used = set()
    known = {}  # category: a file that has it
    for split, file in files.items():
        names, images, objects = _read(file)
        known |= {name: file for name in names.values() if name not in known}
        used |= {label for some in objects.values() for label, _ in some}
        photos += _photos(file, split, images, objects, findings)
        for image in sorted(objects.keys() - {image["id"] for image in images}, key=str):
            findings.append(
                Finding("objects belong to no image", f"{file}, image {image}", lost=True)
            )
    findings += [
        Finding("categories have no object", name, str(known[name]))
        for name in known
        if name not in used
    ]
    return build(photos, findings, boxes, margin, f"coco:{argument}")


def _read(file):
    """Returns ({category: its name}, images, {image: [(label, box)]})."""
    try:
        tree = json.loads(file.read_bytes())
        names = {category["id"]: str(category["name"]) for category in tree["categories"]}
        images = [
            image | {"id": image["id"], "file_name": str(image["file_name"])}
            for image in tree["images"]
        ]
        objects = {}
        for thing in tree["annotations"]:
            label = names.get(thing["category_id"], "")
            objects.setdefault(thing["image_id"], []).append((label, _box(thing)))
        for what in ("categories", "images"):
            counts = collections.Counter(thing["id"] for thing in tree[what])
            if twice := [number for number, n in counts.items() if n > 1]:
                raise UserError(
                    f"{file} has two {what} with the id {twice[0]!r}: which one an object is of is unknown"
                )
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file} is no JSON file: {error}") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}, line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{file} is not of COCO's form (images, annotations, categories): {what}"
        ) from error
    return names, images, objects


def _box(thing):
    """Returns the box of an object, or else around its polygons; None where it has neither."""
    try:
        if thing.get("bbox"):
            left, top, width, height = map(float, thing["bbox"])
            return left, top, left + width, top + height
        return bounds([value for polygon in thing["segmentation"] for value in polygon])
    # segmentation may be a mask, whose box every writer gives
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _photos(file, split, images, objects, findings):
    named = file.stem.removeprefix("instances_")
    folders = [".", "images", f"images/{named}", named]
    folders += [
        f"../{folder}" for folder in ("images", f"images/{named}", f"images/{split}", named, split)
    ]
    folders = [os.path.normpath(os.path.join(file.parent, folder)) for folder in folders]
    photos = []
    for image in images:
        name = image["file_name"].replace("\\", "/")
        places = [os.path.join(folder, name) for folder in folders]
        path = find_file(places)
        if path is None:
            missing = os.path.normpath(places[0])
            findings.append(Finding("annotated images do not exist", missing, str(file), lost=True))
            continue
        if path != os.path.normpath(places[0]):  # the next is likely there too
            folders.sort(key=lambda folder: os.path.normpath(os.path.join(folder, name)) != path)
        size = tuple(
            side if isinstance(side, int | float) else 0
            for side in map(image.get, ("width", "height"))
        )
        photos.append(Photo(path, split, size, objects.get(image["id"], [])))
    return photos


def _split_files(folder):
    """Returns {split: annotation file}."""
    named = [
        (_NAME.fullmatch(f.name), f)
        for place in (folder / "annotations", folder)
        for f in place.glob("*.json")
    ]
    instances = [
        (match, file) for match, file in named if match and file.name.startswith("instances_")
    ]
    found = [(SPLITS[m.group(1).lower()], f) for m, f in instances or named if m]
    if not found:
        found = [
            (SPLITS[f.parent.name.lower()], f)
            for f in folder.glob("*/_annotations.coco.json")
            if f.parent.name.lower() in SPLITS
        ]
    files = {}
    for split, file in sorted(found):
        if split in files:
            raise UserError(
                f"{folder} has two files for {split}: {files[split].name} and {file.name}; give one as coco:FILE"
            )
        files[split] = file
    return {split: files[split] for split in ("train", "val", "test") if split in files}
