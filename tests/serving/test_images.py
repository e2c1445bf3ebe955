"""An image's cost is known before it is spent, and the pixels are those that training's decoder
gives."""

import asyncio
import base64
import io
import struct
import time
import types
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.support import hostile_images
from vision.data.decode import decode, resize_crop, to_channels
from vision.reference import appearance
from vision.serving.errors import Refused, TooLarge, Unreadable
from vision.serving.headers import scans_of
from vision.serving.images import Decoder
from vision.serving.settings import Settings
from vision.tiles.grid import Tiling

RESIZE = {"crop_fraction": 0.875, "interpolation": "bilinear"}


def bundle(side=8, channels=3, bits=0):
    return types.SimpleNamespace(
        bits=bits,
        classes=("a", "b"),
        encoder=None,
        image_size=side,
        channels=channels,
        resize=RESIZE,
        prepare=lambda image: resize_crop(to_channels(image, channels), side, **RESIZE),
    )


def encoded(kind="PNG", size=(20, 12), mode="RGB"):
    random = np.random.default_rng(0)
    file = io.BytesIO()
    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def png(width, height, data=b""):
    """A PNG that says it has a size."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def test_what_images_are_like_is_measured_where_they_are_decoded():
    """The same numbers as the exporter's, for files and for pixels of any amount."""

    def measured(images):
        looks = np.full((len(images), 7), np.nan, np.float32)
        prepared = prepare(images, looks=looks)
        return looks, prepared

    files = [encoded("PNG"), encoded("JPEG", (9, 30)), encoded("PNG", (8, 8), "L")]
    looks, prepared = measured(files)
    expected = [
        appearance.measure(image, decode(file).shape)
        for image, file in zip(prepared, files, strict=True)
    ]
    np.testing.assert_array_equal(looks, expected)
    np.testing.assert_array_equal(measured(files[:1])[0], looks[:1])
    for count in (1, 64):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
        np.testing.assert_array_equal(measured(pixels)[0], appearance.measure_all(pixels))
    large = np.random.default_rng(0).integers(0, 256, (2, 100, 100, 3), np.uint8)
    looks = np.full((2, 7), np.nan, np.float32)
    prepare(large, bundle(100), looks=looks)
    np.testing.assert_array_equal(looks, appearance.measure_all(large))


def prepare(images, model=None, looks=None, **options):
    async def run():
        decoder = Decoder(Settings(**options))
        try:
            return await decoder.prepare(images, model or bundle(), looks)
        finally:
            decoder.close()

    return asyncio.run(run())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF"])
def test_the_pixels_are_trainings(kind):
    data = encoded(kind)
    np.testing.assert_array_equal(prepare([data])[0], resize_crop(decode(data, 3), 8, **RESIZE))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC or video file is not accepted"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "an AVIF file is not accepted"),
        (base64.b64encode(encoded("JPEG")), "this is base64, not the image's bytes"),
        (b"data:image/png;base64,iVBORw0KGgo", "this is base64, not the image's bytes"),
        (b' {"instances": []}', "this is JSON, not the image's bytes"),
        (b"%PDF-1.7", "not an image of a known format"),
    ],
)
def test_what_is_sent_in_place_of_an_image_is_named(data, reason):
    with pytest.raises(Unreadable, match=f"{reason}: send JPEG, PNG"):
        prepare([data])


def test_the_significant_bits_are_trainings():
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 65).save(file, "PNG")
    data = file.getvalue()
    assert len(np.unique(prepare([data], bundle(channels=1))[0])) == 16
    pixels = prepare([data], bundle(channels=1, bits=12))[0]
    np.testing.assert_array_equal(pixels, decode(data, bits=12))
    assert len(np.unique(pixels)) == 64
    with pytest.raises(Refused, match="its values reach 4,095, too large for data.bits=11"):
        prepare([data], bundle(bits=11))


def test_many_keep_their_order():
    several = [encoded(size=(9 + i, 12)) for i in range(5)]
    prepared = prepare(several, bundle(channels=1))
    assert prepared.shape == (5, 8, 8, 1) and prepared.dtype == np.uint8
    for image, data in zip(prepared, several, strict=True):
        np.testing.assert_array_equal(image, resize_crop(decode(data, 1), 8, **RESIZE))


def test_arrays_are_checked_and_passed_on():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    assert prepare(images) is images
    for shape in ((2, 8, 8, 1), (2, 9, 8, 3), (0, 8, 8, 3)):
        with pytest.raises(Refused):
            prepare(np.zeros(shape, np.uint8))
    with pytest.raises(TooLarge):
        prepare(np.zeros((65, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Refused),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", Unreadable),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", Unreadable),
        (b"P6 1 1 255 abc", Unreadable),
        (b"\xff\xd8", Refused),
        (encoded("JPEG")[:-40], Refused),
        (encoded()[:-40], Refused),
        (b"GIF89a", Refused),
        (b"RIFF\x10\0\0\0WEBPVP8 ", Refused),
        (png(0, 0), Refused),
        (png(0, 7), Refused),
        (png(20, 12), Refused),
        (png(100_000, 1), TooLarge),
        (png(1, 100_000), TooLarge),
        (png(8_000, 8_000), TooLarge),
        (png(2**31 - 1, 2**31 - 1), Refused),
        (png(16_000, 1, b"\0" * 16_001), TooLarge),
    ],
)
def test_what_cannot_be_decoded_or_should_not_be_is_refused(data, kind):
    with pytest.raises(kind) as caught:
        prepare([data], bundle(side=224))
    assert "\n" not in caught.value.message


def test_an_error_names_its_image():
    with pytest.raises(Refused, match="image 1: "):
        prepare([encoded(), encoded()[:-40], encoded()])


def test_limits_are_the_settings():
    prepare([encoded()], max_pixels=240)
    for limit in ({"max_pixels": 239}, {"max_side": 19}, {"max_images": 1}):
        with pytest.raises(TooLarge):
            prepare([encoded()] * 2, **limit)
    with pytest.raises(TooLarge, match="1,200 pixels"):
        prepare([encoded()] * 5, max_pixels=240)


def cut(images, model=None, tiling=None, **options):
    async def run():
        decoder = Decoder(Settings(**options))
        try:
            return await decoder.cut(images, model or bundle(), tiling or Tiling(8), True)
        finally:
            assert decoder._waiting == 0
            decoder.close()

    return asyncio.run(run())


def test_a_cut_image_is_prepared_and_measured_tile_by_tile():
    data = encoded("JPEG", (30, 12))
    grid, tiles, looks = cut([data], bundle(channels=1), Tiling(9, 0.0))
    assert [grid[i][:2] for i in range(len(grid))] == [
        *((0, 0), (9, 0), (18, 0), (21, 0), (0, 3), (9, 3), (18, 3), (21, 3))
    ]
    pixels = decode(data)
    for number, (tile, look) in enumerate(zip(tiles, looks, strict=True)):
        x, y = grid[number][:2]
        part = pixels[y : y + 9, x : x + 9]
        np.testing.assert_array_equal(tile, resize_crop(to_channels(part, 1), 8, **RESIZE))
        np.testing.assert_array_equal(look, appearance.measure(tile, part.shape))
    raw = cut(pixels[None], bundle(channels=1), Tiling(9, 0.0))
    np.testing.assert_array_equal(raw.tiles, tiles)


def test_what_cannot_be_cut_is_refused():
    fusion = bundle()
    fusion.encoder = types.SimpleNamespace(names=("age", "site"))
    for images, model, options, kind, message in (
        ([encoded()], fusion, {}, Refused, "this one takes age, site"),
        ([encoded()] * 2, None, {}, Refused, "send one image per request: this one has 2"),
        ([encoded()[:-40]], None, {}, Refused, "it cannot be decoded"),
        ([b"%PDF-1.7"], None, {}, Unreadable, "not an image of a known format"),
        ([encoded()], None, {"max_tiles": 5}, TooLarge, "make 6 tiles of 8, but at most 5"),
        ([png(20_000, 4)], None, {}, TooLarge, "at most 16,384 per side"),
        (np.zeros((1, 9, 9, 2), np.uint8), None, {}, Refused, "1 or 3 channels"),
        (np.zeros((1, 90, 9, 3), np.uint8), None, {"max_side": 89}, TooLarge, "90 pixels"),
    ):
        with pytest.raises(kind, match=message):
            cut(images, model, **options)


def test_images_of_very_many_parts_cost_little():
    """Each keeps PIL busy for seconds, and holds the interpreter."""
    for case in hostile_images.parts():
        data = case.parts[0].partition(b"\r\n\r\n")[2]
        begun = time.process_time()
        with pytest.raises(Refused):
            prepare([data])
        assert time.process_time() - begun < 0.5, case.name


def test_a_png_that_says_it_has_gigabytes_costs_nothing():
    data = encoded("PNG")
    end = data.index(b"IEND") - 4
    for size in (2**31 - 1, 2**32 - 1, 10**9):
        huge = data[:end] + struct.pack(">I", size) + b"tEXt" + data[end:]
        begun = time.perf_counter()
        with pytest.raises(Refused, match="truncated"):
            prepare([huge])
        assert time.perf_counter() - begun < 0.5
    # what is behind its end is not of it
    assert prepare([data + b"\xff" * 99]).shape == (1, 8, 8, 3)


def test_a_png_has_the_size_that_its_first_header_says():
    small = png(8, 8)
    large = png(12_000, 12_000, bytes(12_001 * 12_000))
    with pytest.raises(Refused, match="two headers"):
        prepare([small[:33] + large[8:]])
    with pytest.raises(TooLarge):
        prepare([large])


def test_what_is_appended_or_embedded_is_no_scan():
    """Phones append films to their JPEGs, and cameras put previews into them."""
    data = encoded("JPEG")
    scan = b"\xff\xda"
    assert scans_of(data) == scans_of(data + scan * 500) == 1
    preview = b"\xff\xe1" + struct.pack(">H", 1_002) + scan * 500
    assert scans_of(data[:2] + preview + data[2:]) == 1
    assert scans_of(data[:-2] + data[data.index(scan) : -2] * 99 + data[-2:]) == 100
    assert scans_of(data[:-2] + scan * 99) == 100
    assert scans_of(encoded()) == 1
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).save(file, "JPEG", progressive=True)
    assert 5 < scans_of(file.getvalue()) < 16
