"""Mistakes among real photographs: what an audit has to find."""

import dataclasses
import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SPLITS = ("train", "train", "train", "val", "test")
HOSTILE = "<script>alert(1)&\"'.jpg"  # a file's name


def encode(image, kind="JPEG", **options):
    """Returns the bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, kind, **options)
    return file.getvalue()


def crop(image, top=0, bottom=0, left=0, right=0):
    """Returns the image without some percent at its sides."""
    height, width = image.shape[:2]
    cut = [
        round(percent / 100 * side)
        for percent, side in ((top, height), (bottom, height), (left, width))
    ]
    return image[cut[0] : height - cut[1], cut[2] : width - round(right / 100 * width)]


def resize(image, factor):
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


# What makes a near duplicate of a picture.
COPIES = {
    "half": lambda image: encode(resize(image, 0.5), quality=90),
    "quality30": lambda image: encode(image, quality=30),
    "smaller": lambda image: encode(resize(image, 0.7), quality=60),
    "brighter": lambda image: encode(np.clip(image * 1.1 + 8, 0, 255).astype(np.uint8), quality=90),
    "top": lambda image: encode(crop(image, top=5), quality=90),
    "bottom": lambda image: encode(crop(image, bottom=5), quality=90),
    "left": lambda image: encode(crop(image, left=5), quality=90),
    "right": lambda image: encode(crop(image, right=5), quality=90),
    "inner": lambda image: encode(crop(image, 5, 5, 5, 5), quality=50),
}


@dataclasses.dataclass
class Planted:
    """A folder with mistakes.

    Attributes:
        root: the folder.
        exact, near: {path of a copy: path of what it is a copy of}.
        digests: {path: SHA-256} of all files.
    """

    root: Path
    exact: dict
    near: dict
    digests: dict


def digests(root):
    return {
        str(f): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(root.rglob("*"))
        if f.is_file()
    }


def plant(photos, root):
    """Writes photographs in three splits, with copies, broken and odd ones among them."""
    exact = {}
    near = {}

    def put(split, label, name, data):
        path = root / split / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    paths = []
    for label, files in photos.items():
        paths += [put(SPLITS[i % 5], label, name, data) for i, (name, data) in enumerate(files)]
    train = [Path(path) for path in paths if "/train/" in path]
    rng = np.random.default_rng(0)
    chosen = iter([train[i] for i in rng.permutation(len(train))])
    for number, (what, copy) in enumerate(list(COPIES.items()) * 2):
        original = next(chosen)
        image = np.array(Image.open(original))
        path = put(
            ("test", "val", "train")[number % 3],
            original.parent.name,
            f"{what}-{original.name}",
            copy(image),
        )
        near[path] = str(original)
    for split in ("test", "val", "train"):
        original = next(chosen)
        image = encode(np.array(Image.open(original)), "PNG")
        exact[put(split, original.parent.name, f"same-{original.stem}.png", image)] = str(original)
    put("train", "scratches", "blank.png", encode(np.full((200, 200), 130, np.uint8), "PNG"))
    put("test", "scratches", "empty.jpg", b"")
    put("val", "photo 0", "cut.jpg", next(chosen).read_bytes()[:3000])
    sharp = next(path for path in chosen if path.parent.name == "photo 0")
    blurred = np.array(Image.open(sharp).convert("RGB"))
    sharp.unlink()
    put(
        "train",
        "photo 0",
        "blurred.jpg",
        encode(cv2.GaussianBlur(blurred, (0, 0), 0.03 * min(blurred.shape[:2]))),
    )
    noise = rng.integers(0, 255, (12, 90, 3), dtype=np.uint8)
    put("train", "photo 0", HOSTILE, encode(noise, quality=95))
    put(
        "train",
        "Scratches",
        "misspelled.png",
        encode(rng.integers(0, 255, (200, 200), dtype=np.uint8), "PNG"),
    )
    return Planted(root, exact, near, digests(root))
