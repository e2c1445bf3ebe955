"""`coco:FILE` or `coco:FOLDER`: object detection annotations in COCO's JSON format.

Lin et al. 2014, "Microsoft COCO: Common Objects in Context" (arXiv:1405.0312). A folder's splits:

    FOLDER/annotations/instances_{train,val,test}*.json       COCO itself, datumaro, CVAT
    FOLDER/{train,valid,test}/_annotations.coco.json          Roboflow

Images are searched for beside the file, in images/, in images/SPLIT/, and in the same places one
folder up. An image is labeled by its largest object; `?boxes=crop` gives one image per object: see
`vision.data.sources._boxes`. Crowds are not objects. In a file without any box, annotations are
labels of the whole image. `?attribute=NAME` labels by an attribute in place of the category: CVAT
and datumaro write them. `?text=captions` reads the captions beside the objects, in
captions_{train,val,test}*.json; of several of an image, the first.
"""

import collections
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from vision.data.files import SPLITS
from vision.data.findings import Finding
from vision.data.sources import Source
from vision.data.sources._boxes import Box, Photo, bounds, build, check_attribute
from vision.data.sources._paths import ELSEWHERE, find_file, locate
from vision.data.texts import with_texts
from vision.errors import UserError, check_choice
from vision.support.reading import read_json
from vision.support.schema import is_number

ID = (int, str, float)
SCHEMA = {
    "categories": [{"id": ID, "name": (str, int)}],
    "images": [{"id": ID, "file_name": (str, int)}],
    "annotations": [{"image_id": ID, "category_id": ID}],
}
CAPTIONS = "captions"
CAPTION_SCHEMA = {"annotations": [{"image_id": ID, "caption": str}]}
FORM = "in COCO format (images, annotations, categories)"
_NAME = re.compile(
    rf"(?:instances_)?({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?![a-z]).*\.json", re.I
)


class _Annotations(NamedTuple):
    """What a file contains: {category: name}, images, {image: [(label, box)]}, {attribute: values}.

    `has_boxes` is False if no annotation has a box or an outline. `captions` is {image: text}.
    """

    names: dict
    images: list[dict]
    objects: dict[Any, list[tuple[str, Box | None]]]
    attributes: dict[str, set[str]]
    has_boxes: bool
    captions: dict[Any, str]


def open(
    argument: str,
    *,
    boxes: str = "main",
    margin: str = "0.1",
    attribute: str = "",
    text: str = "",
) -> dict[str, Source]:
    """Opens an annotation file, or those of a folder.

    Args:
        argument: the file, or the folder.
        boxes: see `vision.data.sources._boxes.build`.
        margin: see `vision.data.sources._boxes.build`.
        attribute: the attribute that labels the objects; "" for their category.
        text: "captions" reads those of the images; "" reads none.

    Returns:
        {"all": source} for a file, or a dict with some of "train", "val", "test" for a folder.

    Raises:
        UserError: no such file, malformed, of another format, two files for one split, or see
            `build`.
    """
    path = Path(argument).expanduser()
    files = _split_files(path) if path.is_dir() else {"all": path}
    if not argument or not files:
        raise UserError(
            f"{argument!r} has neither annotations/instances_train.json nor "
            "train/_annotations.coco.json: write coco:FILE"
        )
    check_choice("text", text, ("", CAPTIONS))
    if text and boxes == "crop":
        raise UserError(f"coco:{argument}: captions describe whole images: leave out ?boxes=crop")
    findings: list[Finding] = []
    photos = []
    used = set()
    attributes: dict[str, set[str]] = {}
    categories: dict[str, Path] = {}  # the first file that has each
    for split, file in files.items():
        content = _read(file, attribute, findings)
        if text:
            content = content._replace(captions=_captions(file, findings))
        if boxes == "crop" and not content.has_boxes:
            raise UserError(f"{file} has labels but no boxes: leave out ?boxes=crop")
        for name in content.names.values():
            categories.setdefault(name, file)
        used |= {label for members in content.objects.values() for label, _ in members}
        photos += _photos(file, split, content, findings)
        findings += _unknown_images(file, content)
        for name, texts in content.attributes.items():
            attributes.setdefault(name, set()).update(texts)
    findings += check_attribute(attribute, attributes, f"coco:{argument}")
    findings += [
        Finding("categories have no objects", name, str(file))
        for name, file in categories.items()
        if name not in used and not attribute
    ]
    base = path if path.is_dir() else path.parent
    sources = build(photos, findings, boxes, margin, f"coco:{argument}", base)
    return _captioned(sources, photos, f"coco:{argument}") if text else sources


def _captioned(sources, photos, title):
    """Gives sources of whole images the captions of their photos."""
    by_path = {photo.path: photo.caption for photo in photos}
    captions = {
        split: [by_path[source.name(i)] for i in range(len(source))]
        for split, source in sources.items()
    }
    return with_texts(sources, captions, title)


def _captions(file, findings):
    """Returns {image: its first caption}.

    Raises:
        UserError: there is no file of captions beside that of the objects, or it is damaged.
    """
    path = file.with_name(f"{CAPTIONS}_{file.name.removeprefix('instances_')}")
    if not path.is_file():
        raise UserError(f"{file} has no captions file next to it: ?text=captions reads {path}")
    captions: dict[Any, str] = {}
    annotations = read_json(path, CAPTION_SCHEMA, form=FORM)["annotations"]
    for annotation in annotations:
        captions.setdefault(annotation["image_id"], annotation["caption"])
    if more := len(annotations) - len(captions):
        kind = "captions after the first of an image are not used"
        findings.append(Finding(kind, str(path), f"{more:,} of {len(annotations):,}"))
    return captions


def _unknown_images(file, content):
    """Returns findings for objects of images that the file does not list."""
    image_ids = {image["id"] for image in content.images}
    kind = "objects refer to unknown images"
    return [
        Finding(kind, f"{file}, image {image}", lost=True)
        for image in sorted(content.objects.keys() - image_ids, key=str)
    ]


def _read(file, attribute, findings):
    return _parse(file, read_json(file, SCHEMA, form=FORM), attribute, findings)


def _parse(file, tree, attribute, findings):
    names = {category["id"]: str(category["name"]) for category in tree["categories"]}
    images = tree["images"]
    objects: dict = {}
    attributes: dict[str, set[str]] = {}
    for annotation in tree["annotations"]:
        if annotation.get("iscrowd"):
            kind = "crowds are not objects and are left out"
            findings.append(Finding(kind, f"{file}, image {annotation['image_id']}"))
            continue
        label = names.get(annotation["category_id"], "")
        texts = _attributes(annotation)
        for name, text in texts.items():
            attributes.setdefault(name, set()).add(text)
        label = texts.get(attribute, "") if attribute else label
        objects.setdefault(annotation["image_id"], []).append((label, _box(annotation)))
    for key in ("categories", "images"):
        counts = collections.Counter(entry["id"] for entry in tree[key])
        if repeated := [number for number, n in counts.items() if n > 1]:
            raise UserError(
                f"{file} has two {key} with the id {repeated[0]!r}, "
                "so it is unclear which one its objects belong to"
            )
    has_boxes = any(
        annotation.get("bbox") not in (None, [], [0, 0, 0, 0]) or annotation.get("segmentation")
        for annotation in tree["annotations"]
    )
    return _Annotations(names, images, objects, attributes, has_boxes, {})


def _attributes(annotation):
    """Returns {name: text} of an object's attributes that are texts."""
    attributes = annotation.get("attributes")
    if not isinstance(attributes, dict):
        return {}
    return {str(name): text for name, text in attributes.items() if isinstance(text, str)}


def _box(annotation):
    """Returns the box of an object, or else around its polygons; None if it has neither."""
    try:
        if annotation.get("bbox"):
            left, top, width, height = map(float, annotation["bbox"])
            return left, top, left + width, top + height
        return bounds([value for polygon in annotation["segmentation"] for value in polygon])
    # segmentation may be a mask, for which every writer gives a box
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _photos(file, split, content, findings):
    name = file.stem.removeprefix("instances_")
    folders = [".", "images", f"images/{name}", name]
    folders += [
        f"../{folder}" for folder in ("images", f"images/{name}", f"images/{split}", name, split)
    ]
    folders = [os.path.normpath(os.path.join(file.parent, folder)) for folder in folders]
    photos = []
    for image in content.images:
        image_name = str(image["file_name"]).replace("\\", "/")
        candidates = [os.path.normpath(os.path.join(folder, image_name)) for folder in folders]
        path = find_file(candidates) or _search(image_name, folders, findings)
        if path is None:
            kind = "annotated images do not exist"
            findings.append(Finding(kind, candidates[0], str(file), lost=True))
            continue
        if path in candidates:
            index = candidates.index(path)  # likely the next's too
            folders = [folders[index], *folders[:index], *folders[index + 1 :]]
        width, height = (
            side if is_number(side) and side >= 0 else 0
            for side in (image.get("width"), image.get("height"))
        )
        objects = content.objects.get(image["id"], [])
        tags = [] if content.has_boxes else [label for label, _ in objects]
        if not content.has_boxes:
            objects = []
        caption = content.captions.get(image["id"])
        photos.append(Photo(path, split, (width, height), objects, tags, caption))
    return photos


def _search(name, folders, findings):
    """Returns the file that a name from elsewhere means; None if there is none."""
    path, guessed = locate(name, folders)
    if guessed:
        findings.append(Finding(ELSEWHERE, name, path))
    return path


def _split_files(folder):
    """Returns {split: annotation file}."""
    json_files = [f for place in (folder / "annotations", folder) for f in place.glob("*.json")]
    matches = [(_NAME.fullmatch(file.name), file) for file in json_files]
    named = [(match, file) for match, file in matches if match]
    instances = [(match, file) for match, file in named if file.name.startswith("instances_")]
    files = [(SPLITS[match.group(1).lower()], file) for match, file in instances or named]
    if not files:
        files = [
            (SPLITS[file.parent.name.lower()], file)
            for file in folder.glob("*/_annotations.coco.json")
            if file.parent.name.lower() in SPLITS
        ]
    splits = {}
    for split, file in sorted(files):
        if split in splits:
            raise UserError(
                f"{folder} has two files for {split}: {splits[split].name} and {file.name}; "
                "give one of them as coco:FILE"
            )
        splits[split] = file
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}
