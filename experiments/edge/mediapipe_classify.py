"""Classifies photos with a bundle's model.tflite in MediaPipe, one line of JSON each.

    python experiments/edge/mediapipe_classify.py BUNDLE whole|crop FOLDER

Needs nothing of this project, so that it runs in an environment of its own:
`pip install mediapipe==1.2.2`. `whole` stretches the whole photo to the model's size, as MediaPipe
does by itself; `crop` gives it the region that the bundle's own resize would keep.
"""

import json
import pathlib
import sys

import numpy as np
from PIL import Image, ImageOps


def region(width, height, size, crop_fraction):
    """Returns the part of an image that a bundle classifies, as shares of its sides.

    Args:
        width, height: of the image, pixels.
        size, crop_fraction: `image_size` and `resize.crop_fraction` of bundle.json.

    Returns:
        {"left", "top", "right", "bottom"}, each from 0 to 1.
    """
    shorter = int(size / crop_fraction)  # the shorter side after resizing
    wide, high = (shorter * side // min(width, height) for side in (width, height))
    x, y = round((wide - size) / 2), round((high - size) / 2)
    return {
        "left": x / wide,
        "top": y / high,
        "right": (x + size) / wide,
        "bottom": (y + size) / high,
    }


def main(bundle, kind, folder):
    import mediapipe  # here, so that this project can use `region` without it
    from mediapipe.tasks.python import BaseOptions, vision
    from mediapipe.tasks.python.components.containers.rect import RectF
    from mediapipe.tasks.python.vision.core.image_processing_options import ImageProcessingOptions

    manifest = json.loads(pathlib.Path(bundle, "bundle.json").read_text())
    options = vision.ImageClassifierOptions(
        base_options=BaseOptions(model_asset_path=str(pathlib.Path(bundle, "model.tflite")))
    )
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for path in sorted(pathlib.Path(folder).rglob("*.*")):
            with Image.open(path) as photo:
                pixels = np.array(ImageOps.exif_transpose(photo).convert("RGB"))
            height, width = pixels.shape[:2]
            size, fraction = manifest["image_size"], manifest["resize"]["crop_fraction"]
            part = RectF(**region(width, height, size, fraction)) if kind == "crop" else None
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
            result = classifier.classify(image, ImageProcessingOptions(region_of_interest=part))
            first = result.classifications[0]  # the second head is the embedding
            classes = {c.category_name: c.score for c in first.categories[:5]}
            print(json.dumps({"file": str(path), "classes": classes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
