"""Classifies photos with a bundle's model.tflite in MediaPipe, one line of JSON each.

    python experiments/edge/mediapipe_classify.py BUNDLE whole|crop FOLDER

Needs nothing of this project, so that it runs in an environment of its own:
`pip install mediapipe==1.2.2`. `whole` stretches the whole photo to the model's size, as MediaPipe
does by itself; `crop` gives it the region that the bundle's own resize would keep.
"""

import json
import pathlib
import sys

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
from mediapipe.tasks.python.components.containers.rect import RectF
from mediapipe.tasks.python.vision.core.image_processing_options import ImageProcessingOptions
from PIL import Image, ImageOps


def region(width, height, size, crop_fraction):
    """Returns the part of an image that a bundle classifies, as MediaPipe takes it.

    Args:
        width, height: of the image, pixels.
        size, crop_fraction: `image_size` and `resize.crop_fraction` of bundle.json.
    """
    scale = min(width, height) / int(size / crop_fraction)  # pixels to one after resizing
    x, y = (round((side / scale - size) / 2) * scale for side in (width, height))
    right, bottom = x + size * scale, y + size * scale
    x, right = x / width, min(right / width, 1.0)
    y, bottom = y / height, min(bottom / height, 1.0)
    return RectF(left=x, top=y, right=right, bottom=bottom)


def main(bundle, kind, folder):
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
            part = region(width, height, size, fraction) if kind == "crop" else None
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
            result = classifier.classify(image, ImageProcessingOptions(region_of_interest=part))
            first = result.classifications[0]  # the second head is the embedding
            classes = {c.category_name: c.score for c in first.categories[:5]}
            print(json.dumps({"file": str(path), "classes": classes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
