"""Tasks for annotation tools, filled in with the model's classes: CVAT and Label Studio."""

import pathlib
from collections.abc import Sequence
from urllib.parse import quote
from xml.etree import ElementTree

from vision.data.decode import read_size
from vision.monitoring.labeling.collection import Item
from vision.support.files import replacing, write_json

CONTROL = "class"  # name of the choices in Label Studio
LOCAL = "/data/local-files/?d="  # how Label Studio's addresses of local files begin


def write_tasks(
    directory: pathlib.Path,
    title: str,
    items: Sequence[Item],
    classes: Sequence[str],
    fingerprint: str,
) -> None:
    """Writes cvat.xml, label_studio.json and label_studio.xml.

    Args:
        directory: where to; the images are there.
        title: name of the directory that it becomes: the images' addresses in Label Studio begin
            with it, so that its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is the folder above.
        items: the images.
        classes: the bundle's, among which the tools let people choose.
        fingerprint: the bundle's.
    """
    _write(directory / "cvat.xml", _cvat(directory, title, items, classes))
    write_json(directory / "label_studio.json", [_task(item, title, fingerprint) for item in items])
    _write(directory / "label_studio.xml", _interface(classes))


def _cvat(directory, title, items, classes):
    """Returns the document "CVAT for images 1.1": https://docs.cvat.ai/docs/other/xml_format.

    Images have the name of their file only: CVAT finds a frame by the end of its path.
    """
    root = ElementTree.Element("annotations")
    _text(root, "version", "1.1")
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    _text(task, "name", title)
    _text(task, "size", str(len(items)))
    _text(task, "mode", "annotation")
    labels = ElementTree.SubElement(task, "labels")
    for name in classes:
        label = ElementTree.SubElement(labels, "label")
        _text(label, "name", name)
        _text(label, "type", "tag")
        ElementTree.SubElement(label, "attributes")
    for number, item in enumerate(items):
        width, height = read_size(directory / item.path)
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=item.name, width=str(width), height=str(height)
        )
        ElementTree.SubElement(image, "tag", label=item.predicted, source="auto")
    return root


def _task(item, title, fingerprint):
    """Returns a task: https://labelstud.io/guide/predictions."""
    result = {
        "from_name": CONTROL,
        "to_name": "image",
        "type": "choices",
        "value": {"choices": [item.predicted]},
    }
    return {
        "data": {
            "image": LOCAL + quote(f"{title}/{item.path}"),
            "path": item.path,
            "reasons": ", ".join(item.reasons),
        },
        "predictions": [
            {"model_version": fingerprint, "score": item.confidence, "result": [result]}
        ],
    }


def _interface(classes):
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    choices = ElementTree.SubElement(
        view, "Choices", name=CONTROL, toName="image", choice="single", showInLine="true"
    )
    for name in classes:
        ElementTree.SubElement(choices, "Choice", value=name)
    return view


def _text(parent, tag, text):
    ElementTree.SubElement(parent, tag).text = text


def _write(path, root):
    ElementTree.indent(root)
    with replacing(path, binary=True) as file:
        file.write(ElementTree.tostring(root, "utf-8", xml_declaration=True))
        file.write(b"\n")
