"""A folder with a photograph in every form that cameras, scanners and web pages write, read back
from all."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from vision.data.decode import UnreadableImage, decode, read_header, read_size
from vision.data.sources import open_splits

# how far off their pixels may be: 12
LOSSY = {"jpeg", "progressive", "cmyk", "turned", "webp", "gif", "palette"}
GRAY = {"gray", "deep_png", "deep_tiff", "bits"}


@pytest.fixture(scope="module")
def photo(shared_data):
    """A photograph of 160 x 120 pixels."""
    with tarfile.open(shared_data / "imagenet_samples.tar") as tar:
        member = next(m for m in tar if m.isfile())
        image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
    return image.resize((160, 120))


@pytest.fixture(scope="module")
def folder(photo, tmp_path_factory):
    """Its variants, in folders below two classes, with extensions in any case."""
    root = tmp_path_factory.mktemp("formats")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: to be turned by 90 degrees, clockwise
    gray = photo.convert("L")
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    clear = photo.copy()
    clear.putalpha(255)
    frames = {"save_all": True, "append_images": [Image.new("RGB", photo.size)] * 2, "duration": 50}
    files = {
        "color/jpeg.JPG": (photo, {"quality": 95, "subsampling": 0}),
        "color/deep/progressive.jpeg": (
            photo,
            {"quality": 95, "subsampling": 0, "progressive": True},
        ),
        "color/deep/er/cmyk.jpg": (photo.convert("CMYK"), {"quality": 95}),
        "color/turned.jpg": (
            photo.transpose(Image.Transpose.ROTATE_90),
            {"quality": 95, "subsampling": 0, "exif": exif},
        ),
        "color/rgba.png": (clear, {}),
        "color/palette.Png": (photo.quantize(256), {}),
        "color/webp.webp": (photo, {"quality": 95}),
        "color/tiff.TIF": (photo, {"compression": "tiff_lzw"}),
        "color/bmp.bmp": (photo, {}),
        "color/gif.gif": (photo.quantize(256), frames),
        "gray/gray.jpg": (gray, {"quality": 100}),
        "gray/deep_png.png": (deep, {}),
        "gray/deep_tiff.tiff": (deep, {}),
        "gray/bits.png": (gray.convert("1"), {}),
    }
    for name, (image, options) in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name, **options)
    return root


def test_every_format_is_read(folder, photo):
    source = open_splits(f"folder:{folder}")["all"]
    assert len(source) == 14 and source.classes == ("color", "gray") and not source.findings
    luma = np.asarray(photo.convert("L")).astype(float)[..., None]
    for i in range(len(source)):
        image = source[i]["image"]
        name = source.name(i).rpartition("/")[2].partition(".")[0]
        truth = luma if name in GRAY else np.asarray(photo).astype(float)
        assert image.dtype == np.uint8 and image.shape == truth.shape, name
        assert read_size(source.name(i)) == (160, 120), name
        if name == "bits":
            assert set(np.unique(image)) == {0, 255} and abs(image.mean() - truth.mean()) < 4
        else:
            assert np.abs(image - truth).mean() <= (12 if name in LOSSY else 1), name


def test_a_turned_picture_has_the_size_that_its_header_promises(tmp_path, photo):
    """PIL has turned the size of a TIFF already; XMP may tell the orientation where there is no
    EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    xmp += b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    xmp += b"</rdf:RDF></x:xmpmeta>"
    for form, options in {
        "tiff": {"exif": exif},
        "png": {"exif": exif},
        "webp": {"exif": exif},
        "jpg": {"xmp": xmp},
    }.items():
        file = tmp_path / f"turned.{form}"
        photo.save(file, **options)
        assert decode(str(file)).shape[:2] == (160, 120), form
        assert read_size(file) == (120, 160), form
        assert read_header(file) == ((160, 120), 6), form


def test_pictures_larger_than_the_limit_are_refused(tmp_path):
    """Of 200 million pixels in a few kilobytes, whatever the format."""
    bits = Image.new("1", (20_000, 10_000))
    for form, options in {"PNG": {}, "TIFF": {"compression": "group4"}, "GIF": {}}.items():
        file = tmp_path / f"bomb.{form.lower()}"
        bits.save(file, form, **options)
        assert file.stat().st_size < 1_000_000
        with pytest.raises(UnreadableImage, match="200000000 pixels. exceeds limit"):
            decode(file)
