"""Reads how transformers prepares images from the files beside its weights.

config.json names the classes, preprocessor_config.json the size, crop, filter, mean and deviation.
"""

import pathlib
from typing import Any

from vision.models.weights.published import INCEPTION_MEAN, INCEPTION_STD, Weights
from vision.support.reading import read_json
from vision.support.schema import Rule, integers_within, is_number, numbers_within

_SIDE = integers_within(1, 65_536)
_SIZE = (_SIDE, {"height?": _SIDE, "width?": _SIDE, "shortest_edge?": _SIDE}, None)
COLORS = Rule(
    "a list of 1 or 3 numbers",
    lambda value: type(value) is list and len(value) in (1, 3) and all(map(is_number, value)),
)
CONFIG = {"architectures": [str], "id2label?": {str: str}, "image_size?": _SIDE}
PREPROCESSOR = {
    "image_mean?": COLORS,
    "image_std?": COLORS,
    "size?": _SIZE,
    "crop_size?": _SIZE,
    "crop_pct?": (numbers_within(0.01, 1), None),
    "do_center_crop?": (bool, None),
    "resample?": (int, None),
}
BILINEAR = 2  # Pillow's number
_REMEDY = "fetch it again, or remove it and set data.mean and so on"


def read_weights(config: pathlib.Path, preprocessor: pathlib.Path) -> Weights:
    """Returns the `Weights` that two files of transformers describe.

    Raises:
        UserError: one of them cannot be read.
    """
    described: dict[str, Any] = read_json(config, CONFIG, _REMEDY)
    prepared: dict[str, Any] = read_json(preprocessor, PREPROCESSOR, _REMEDY)
    resized = _side(prepared.get("size")) or described.get("image_size", 224)
    cropped = _side(prepared.get("crop_size")) if prepared.get("do_center_crop") else 0
    crop = min(1.0, cropped / resized) if cropped else (prepared.get("crop_pct") or 1.0)
    labels = described.get("id2label", {})
    keys = sorted(labels, key=lambda key: int(key) if key.isdecimal() else 0)
    names = [labels[key] for key in keys]
    is_named = names and not all(name.startswith("LABEL_") for name in names)
    is_distilled = any("Teacher" in name for name in described["architectures"])
    return Weights(
        "",
        size=cropped or resized,
        crop=crop,
        interpolation="bilinear" if prepared.get("resample") == BILINEAR else "bicubic",
        mean=tuple(prepared.get("image_mean", INCEPTION_MEAN)),
        std=tuple(prepared.get("image_std", INCEPTION_STD)),
        classes=len(names) or 1000,
        class_names=tuple(names) if is_named else (),
        options={"distilled": True} if is_distilled else {},
    )


def _side(size):
    if isinstance(size, dict):
        return size.get("height") or size.get("shortest_edge") or 0
    return size or 0
