"""Checks that a bundle's model is what its bundle.json says."""

import pathlib
from typing import Any

from vision.bundle.runtimes import EXPORT_AGAIN, OUTPUTS, Model
from vision.data.fields import FieldEncoder
from vision.errors import UserError, first_line

MANIFEST = "bundle.json"


def check_signature(
    model: Model, path: pathlib.Path, manifest: Any, fields: FieldEncoder | None
) -> None:
    """Raises `UserError` unless a model's inputs and outputs match its `Manifest`."""
    side = manifest.image_size
    more = fields.signature if fields else {}
    specified = [("uint8", [side, side, manifest.channels])]
    # A float32 tensor's type is "float" in ONNX.
    specified += [(kind.replace("float32", "float"), [*shape]) for kind, shape in more.values()]
    if model.inputs != specified:
        also = f", and {', '.join(more)}" if more else ""
        raise UserError(
            f"{path} takes {model.inputs}, but {MANIFEST} specifies uint8 images of "
            f"{side}x{side}x{manifest.channels}{also}: {EXPORT_AGAIN}"
        )
    missing = [name for name in OUTPUTS if name not in model.outputs]
    if missing:
        raise UserError(f"{path} has no output '{missing[0]}': {EXPORT_AGAIN}")


def check_outputs(bundle: Any, path: pathlib.Path) -> None:
    """Runs the model of a `Bundle` once, on a black image.

    A graph need not declare its outputs' shapes.

    Raises:
        UserError: it fails, or its outputs are not what bundle.json says.
    """
    image = bundle.blank(1)
    try:
        probabilities, embeddings = bundle.probabilities_and_embeddings(image)
    except Exception as error:  # its exceptions have no common type
        raise UserError(f"{path} cannot be run, {EXPORT_AGAIN}:\n{first_line(error)}") from error
    if probabilities.shape != (1, len(bundle.classes)):
        raise UserError(
            f"{path} gives {probabilities.shape[-1]} probabilities an image, but {MANIFEST} names "
            f"{len(bundle.classes)} classes: {EXPORT_AGAIN}"
        )
    if not abs(probabilities.sum() - 1) < 1e-2 or embeddings.ndim != 2 or len(embeddings) != 1:
        raise UserError(
            f"{path} does not give probabilities that sum to 1 and one embedding an image: "
            f"{EXPORT_AGAIN}"
        )
    if bundle.explain is not None and not _is_heat_map(bundle.explain(image)[2]):
        raise UserError(
            f"{path} does not give one heat map an image, with values from 0 to 1: {EXPORT_AGAIN}"
        )


def _is_heat_map(heat):
    """Whether an array is the heat map of one image: (1, h, w) in [0, 1], not empty."""
    if heat.ndim != 3 or len(heat) != 1 or not heat.size:
        return False
    return bool((heat >= 0).all() and (heat <= 1).all())
