"""The scan against independent readings of the same images."""

import io

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from tests.audit.planting import encode
from vision.audit import scan as scanning
from vision.audit.images import Images
from vision.config import default
from vision.data.pipeline import named_splits
from vision.data.sources import open_splits
from vision.data.splits import Subset


def open_images(spec):
    config = default()
    config.data.source = spec
    opened = open_splits(spec)
    return Images(named_splits(config.data, 0, opened)[0], opened, spec)


def test_statistics_are_numpys():
    source = open_splits("digits")["all"]
    images = Images({"train": Subset(source, range(500)), "test": Subset(source, range(500, 700))})
    scan = scanning.scan(images)
    pixels = np.stack([images.image(row) for row in range(len(images))]) / 255
    train = images.split == 0
    mean, std = scan.normalization(train)
    np.testing.assert_allclose(
        (mean[0], std[0]), (pixels[train].mean(), pixels[train].std()), rtol=1e-6
    )
    np.testing.assert_allclose(scan.std, 255 * pixels.std((1, 2, 3)), rtol=1e-4)
    assert (
        scan.format.tolist() == ["array"] * len(images)
        and set(scan.height) == {8}
        and not scan.bytes.any()
    )
    assert len(np.unique(scan.digest)) == len(np.unique(pixels.reshape(len(pixels), -1), axis=0))


def test_colors_weigh_each_image_the_same(tmp_path):
    for name, shape, color in (
        ("a/1.png", (10, 10), (255, 0, 0)),
        ("b/2.png", (40, 20), (0, 0, 51)),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encode(np.full((*shape, 3), color, np.uint8), "PNG"))
    source = open_splits(f"folder:{tmp_path}")["all"]
    scan = scanning.scan(Images({"train": source}))
    mean, std = scan.normalization(slice(None))
    np.testing.assert_allclose(mean, (0.5, 0, 0.1), atol=1e-9)
    np.testing.assert_allclose(std, (0.5, 0, 0.1), atol=1e-9)


def test_hashes_are_imagehashs(photos):
    for _, data in photos["photo 0"][:8]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        hashes = scanning.measure(np.array(image), data)["hashes"]
        for crop, ours in zip(scanning.CROPS, hashes, strict=True):
            top, bottom, left, right = crop
            width, height = image.size
            box = (left * width, top * height, width - right * width, height - bottom * height)
            bits = np.packbits(imagehash.phash(image.crop(tuple(map(round, box)))).hash)
            # It shrinks with another filter than ImageHash does, which may turn bits that are near
            # the median.
            assert np.bitwise_count(ours ^ np.uint64(int.from_bytes(bits.tobytes(), "big"))) <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP"])
def test_formats_by_their_bytes(kind):
    image = (
        np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
        if kind != "GIF"
        else np.zeros((10, 10, 1), np.uint8)
    )
    assert scanning.measure(image, encode(image, kind))["format"] == kind


def test_sharpness_falls_with_blur_and_not_with_size_contrast_or_light(photos):
    image = np.array(Image.open(io.BytesIO(photos["photo 0"][0][1])).convert("L"))[..., None]
    light = (image * np.linspace(0.3, 1, image.shape[1])[None, :, None]).astype(np.uint8)
    blurred = [cv2.GaussianBlur(image, (0, 0), sigma)[..., None] for sigma in (2, 4, 8)]
    variants = [image, image[::2, ::2], (image // 2 + 60).astype(np.uint8), light, *blurred]
    original, *sharpness = [
        float(scanning.measure(np.ascontiguousarray(i), None)["sharpness"]) for i in variants
    ]
    half, dull, uneven, *blurs = np.log(np.array(sharpness) / original)
    assert abs(half) < 0.8 and abs(dull) < 0.2 and abs(uneven) < 0.3
    assert 0 > blurs[0] > blurs[1] > blurs[2] and blurs[1] < -1.5
