"""Decoding against PIL, over formats, modes and damage; resizing against PIL; random crops by their
geometry."""

import contextlib
import io
import struct
import tarfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vision.data.decode import UnreadableImage, decode, resize_crop, to_channels

SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "imagenet_samples.tar"
RNG = np.random.RandomState(0)
# 24 x 20, in blocks
COLOR = np.kron(RNG.randint(0, 256, (6, 5, 3)), np.ones((4, 4, 1))).astype(np.uint8)


def _bytes(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photos():
    if not SAMPLES.exists():
        pytest.skip(f"needs {SAMPLES}")
    with tarfile.open(SAMPLES) as tar:
        return [tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()][:12]


def test_real_photographs_equal_pil(photos):
    for data in photos:
        np.testing.assert_array_equal(
            decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        )


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_equals_pil(form, mode):
    data = _bytes(Image.fromarray(COLOR).convert(mode), form)
    expected = Image.open(io.BytesIO(data))
    gray = expected.mode == "L"
    expected = np.asarray(expected if gray else expected.convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected.reshape(24, 20, 1 if gray else 3))


def test_variants_of_jpeg():
    image = Image.fromarray(COLOR)
    for data in (
        _bytes(image, "JPEG", progressive=True),
        _bytes(image, "JPEG", subsampling=0, quality=95),
        _bytes(image.convert("CMYK"), "JPEG"),
        _bytes(image, "JPEG")[:-2] + b"\0" * 99 + b"\xff\xd9",  # harmless bytes between segments
    ):
        np.testing.assert_array_equal(
            decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        )


def test_palette_bits_and_transparency():
    image = Image.fromarray(COLOR)
    palette = image.quantize(8)
    np.testing.assert_array_equal(
        decode(_bytes(palette, "PNG")), np.asarray(palette.convert("RGB"))
    )
    bits = Image.fromarray(COLOR[..., 0] > 127)
    np.testing.assert_array_equal(
        decode(_bytes(bits, "PNG"))[..., 0], np.where(COLOR[..., 0] > 127, 255, 0)
    )

    alpha = RNG.randint(0, 256, (24, 20, 1)).astype(np.uint8)
    over_white = COLOR * (alpha / 255) + 255 * (1 - alpha / 255)
    rgba = decode(_bytes(Image.fromarray(np.concatenate([COLOR, alpha], -1)), "PNG"))
    assert np.abs(rgba - over_white).max() <= 1
    gray = decode(_bytes(Image.fromarray(np.concatenate([COLOR[..., :1], alpha], -1)), "PNG"))
    assert gray.shape == (24, 20, 1) and np.abs(gray - over_white[..., :1]).max() <= 1
    keyed = decode(_bytes(image, "PNG", transparency=tuple(int(v) for v in COLOR[0, 0])))
    assert (keyed[0, 0] == 255).all() and (keyed[-1, -1] == COLOR[-1, -1]).all()


def test_sixteen_bits_keep_the_upper_eight():
    deep = RNG.randint(0, 65536, (24, 20)).astype(np.uint16)
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(
            decode(_bytes(Image.fromarray(deep), form))[..., 0], deep >> 8
        )
    with pytest.raises(UnreadableImage, match="32-bit"):
        decode(_bytes(Image.fromarray(deep.astype(np.float32)), "TIFF"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    data = _bytes(Image.fromarray(COLOR), form, exif=exif, **options)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    np.testing.assert_array_equal(decode(data), upright)


def test_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((24, 20), value, np.uint8)) for value in (10, 200)]
    assert (decode(_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])) == 10).all()


def test_channels():
    color = _bytes(Image.fromarray(COLOR), "PNG")
    gray = _bytes(Image.fromarray(COLOR[..., 0]), "PNG")
    assert decode(color, 3).shape == (24, 20, 3)
    np.testing.assert_array_equal(decode(gray, 3), np.repeat(COLOR[..., :1], 3, -1))
    luma = COLOR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(color, 1)[..., 0] - luma).max() <= 1
    with pytest.raises(ValueError, match="channels"):
        to_channels(COLOR, 2)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_damaged_files(form, tmp_path):
    data = _bytes(Image.fromarray(COLOR), form)
    for size in (len(data) // 2, 20, 3):
        with pytest.raises(UnreadableImage) as error:
            decode(data[:size], name="x.img")
        assert error.value.name == "x.img" and error.value.reason
    path = tmp_path / "empty.jpg"
    path.write_bytes(b"")
    for broken, reason in (
        (path, "empty file"),
        (b"hello", "not in an image format"),
        (tmp_path / "none.jpg", "No such file"),
    ):
        with pytest.raises(UnreadableImage, match=reason):
            decode(broken)


def test_opencv_gets_no_png_that_it_would_make_room_for(monkeypatch):
    """It takes 2 GB where a chunk claims to hold them, and believes the last of two sizes."""
    good = _bytes(Image.fromarray(COLOR), "PNG")
    at = good.index(b"IDAT") - 4
    header = good[8:33]
    larger = header[:8] + 2 * (4000).to_bytes(4, "big") + header[16:]
    seen = []
    # None: PIL has to decide
    monkeypatch.setattr(cv2, "imdecode", lambda data, _: seen.append(bytes(data)))
    for bad in (good[:at] + b"\x7f\xff\xff\xff" + good[at + 4 :], good[:33] + larger + good[33:]):
        with contextlib.suppress(UnreadableImage):
            decode(bad)
    assert seen == []
    np.testing.assert_array_equal(decode(good), COLOR)
    assert seen == [good]


def test_corrupt_png_is_noticed():
    data = bytearray(_bytes(Image.fromarray(COLOR), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UnreadableImage):
        decode(bytes(data))


def test_decompression_bombs_are_refused():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )
    jpeg = bytearray(_bytes(Image.fromarray(COLOR), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    for data in (png, bytes(jpeg)):
        with pytest.raises(UnreadableImage, match="exceeds limit"):
            decode(data)


def test_resize_crop_equals_pil(photos):
    """With torchvision's rounding: the longer side is cut to a whole number, the corner rounded."""
    for data in photos[:4]:
        image = decode(data)
        height, width = image.shape[:2]
        new = tuple(128 * side // min(height, width) for side in (width, height))
        left = round((new[0] - 96) / 2)
        top = round((new[1] - 96) / 2)

        def pil(filter, new=new, corner=(left, top), image=image):
            resized = Image.fromarray(image).resize(new, filter)
            return np.asarray(resized.crop((*corner, corner[0] + 96, corner[1] + 96)), np.float64)

        result = resize_crop(image, 96, 0.75)
        assert result.shape == (96, 96, 3) and result.dtype == np.uint8
        # another handling of pixels cut by a border
        assert np.abs(result - pil(Image.Resampling.BOX)).mean() < 3
        for name in ("bilinear", "bicubic"):
            same = resize_crop(image, 96, 0.75, interpolation=name)
            np.testing.assert_array_equal(same, pil(Image.Resampling[name.upper()]))


def test_gray_images_keep_their_axis_under_every_filter():
    for name in ("area", "bilinear", "bicubic"):
        assert resize_crop(COLOR[..., :1], 16, interpolation=name).shape == (16, 16, 1)


def test_resize_crop_shapes():
    assert resize_crop(COLOR, 48).shape == (48, 48, 3)
    assert resize_crop(COLOR[..., :1], 7).shape == (7, 7, 1)
    assert resize_crop(COLOR[:1], 8).shape == (8, 8, 3)
    square = COLOR[:20]
    assert resize_crop(square, 20, 0.875) is square
    np.testing.assert_array_equal(resize_crop(np.full((31, 57, 3), 77, np.uint8), 16, 0.875), 77)


def test_random_crop_has_the_area_and_the_ratio_asked_for():
    """The image's red is the column and its green the row, so a crop shows where it came from."""
    rows, columns = np.mgrid[:200, :250]
    image = np.stack([columns, rows, rows], -1).astype(np.uint8)
    rng = np.random.default_rng(0)
    areas = []
    ratios = []
    corners = []
    for _ in range(300):
        crop = resize_crop(image, 24, rng=rng, area=(0.2, 0.5)).astype(float)
        assert crop.shape == (24, 24, 3)
        width = (crop[12, -1, 0] - crop[12, 0, 0]) * 24 / 23
        height = (crop[-1, 12, 1] - crop[0, 12, 1]) * 24 / 23
        areas.append(width * height / 50_000)
        ratios.append(width / height)
        corners.append((crop[0, 0, 0], crop[0, 0, 1]))
    assert (
        0.18 < min(areas) < 0.23 and 0.46 < max(areas) < 0.52 and abs(np.mean(areas) - 0.35) < 0.015
    )
    assert 0.72 < min(ratios) < 0.80 and 1.25 < max(ratios) < 1.38
    assert np.std(corners, axis=0).min() > 20
    again = resize_crop(image, 24, rng=np.random.default_rng(5), area=(0.2, 0.5))
    np.testing.assert_array_equal(
        again, resize_crop(image, 24, rng=np.random.default_rng(5), area=(0.2, 0.5))
    )
    assert resize_crop(COLOR[:1], 8, rng=rng, area=(0.9, 1.0)).shape == (8, 8, 3)
