"""What a model may be given, and what it refuses."""

import pathlib

import cv2
import numpy as np
import pytest
from PIL import Image

from vision.api.images import list_images
from vision.data.decode import UnreadableImage, decode
from vision.errors import UserError


@pytest.fixture
def photos(tmp_path):
    """A folder with two images, one of them below another folder."""
    (tmp_path / "deeper").mkdir()
    random = np.random.default_rng(0)
    for name in ("a.png", "deeper/b.jpg"):
        cv2.imwrite(str(tmp_path / name), random.integers(0, 256, (40, 60, 3), np.uint8))
    return tmp_path


GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)
COLOR = np.stack([GRAY, GRAY + 1, GRAY + 2], -1)


@pytest.mark.parametrize(
    ("images", "count", "is_single"),
    [
        (GRAY, 1, True),
        (GRAY[..., None], 1, True),
        (COLOR, 1, True),
        (np.stack([COLOR, COLOR]), 2, False),
        (Image.fromarray(COLOR), 1, True),
        ([COLOR, Image.fromarray(GRAY)], 2, False),
        ((image for image in (COLOR, COLOR, GRAY)), 3, False),
        ([], 0, False),
        ([COLOR], 1, False),
    ],
)
def test_arrays_and_images(images, count, is_single):
    given, single = list_images(images)
    assert (len(given), single) == (count, is_single)
    for image in given:
        pixels = image.read(0)
        assert image.path is None and pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, COLOR if pixels.shape[-1] == 3 else GRAY[..., None])


def test_paths(photos):
    for path in (photos / "a.png", str(photos / "a.png")):
        (image,), single = list_images(path)
        assert single and image.path == str(photos / "a.png")
        np.testing.assert_array_equal(image.read(0), decode(photos / "a.png"))
    for several in (photos, f"{photos}/**/*.*", [photos / "a.png", photos / "deeper"]):
        given, single = list_images(several)
        assert not single
        assert [pathlib.Path(image.path).name for image in given] == ["a.png", "b.jpg"]


def test_an_opened_file_gives_what_its_path_gives(tmp_path):
    """Turned as its EXIF says, and transparency over white."""
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(COLOR).resize((40, 30)).save(tmp_path / "turned.jpg", exif=tags)
    clear = np.dstack([COLOR, np.full(GRAY.shape, 100, np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    for name in ("turned.jpg", "clear.png"):
        with Image.open(tmp_path / name) as opened:
            ((image,), _) = list_images(opened)
            np.testing.assert_array_equal(image.read(0), decode(tmp_path / name))


def test_an_opened_file_that_is_cut_short_is_named(photos, tmp_path):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes((photos / "deeper/b.jpg").read_bytes()[:-1000])
    (image,) = list_images([Image.open(cut)])[0]
    with pytest.raises(UnreadableImage, match="image 0 of those given: "):
        image.read(0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (COLOR / 255, "must be uint8 from 0 to 255, got float64: for numbers in"),
        (COLOR.astype(int), "must be uint8 from 0 to 255, got int64"),
        (np.zeros((5, 28, 28), np.uint8), r"got \(5, 28, 28\): gray images .* are images\[..., No"),
        (np.zeros((4, 4, 4), np.uint8), r"must have the shape \(H, W, 1 or 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"must have the shape"),
        (np.uint8(3), r"must have the shape"),
        (7, "cannot read an image from 7: give a path, a folder, a uint8 array"),
        (b"bytes", "cannot read an image from b'bytes'"),
        (None, "cannot read an image from None"),
        ([COLOR, None], "cannot read an image from None"),
        ("nowhere.jpg", "there is no file or folder nowhere.jpg"),
        ([COLOR, "nowhere.jpg"], "there is no file or folder nowhere.jpg"),
        ("nowhere/*.jpg", "no image matches nowhere"),
    ],
)
def test_refusals(images, message):
    with pytest.raises(UserError, match=message) as error:
        list_images(images)
    assert len(str(error.value).splitlines()) <= 2


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        list_images(tmp_path)
