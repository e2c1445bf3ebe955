"""Pictures with a model's answers: what is drawn, and what the files are called."""

import numpy as np
import pytest
from PIL import Image

from vision.data.annotated import BLUE, EDGE, NAMES, NUMBERS, WIDTH, annotated, annotating
from vision.errors import UserError
from vision.explain.heat_maps import OF_ANY_CLASS, OF_CLASS


def test_the_bar_is_as_long_as_the_probability():
    image = np.full((10, 10, 1), 200, np.uint8)
    for probability in (0.25, 0.5, 1.0):
        picture = np.asarray(annotated(image, [("cat", probability), ("dog", 0.0)]))
        is_blue = (picture == BLUE).all(-1).any(0)
        length = WIDTH - 2 * EDGE - NAMES - NUMBERS
        assert abs(is_blue.sum() - probability * length) <= 2


def test_small_images_are_enlarged_by_a_whole_number():
    image = np.random.default_rng(0).integers(0, 256, (100, 50, 3), np.uint8)
    picture = np.asarray(annotated(image, [("cat", 1.0)]))
    left = (WIDTH - 200) // 2
    assert (picture[:400:4, left : left + 200 : 4] == image).all()


def test_pictures_of_different_images_do_not_overwrite_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = ["p/cat/1.png", "p/cat_1.png", f"{tmp_path}/p/cat_1.png", f"p/{'猫' * 70}.png"]
    (tmp_path / "p" / "cat").mkdir(parents=True)
    for file in files:
        Image.new("RGB", (20, 10), "red").save(file)
    with annotating("out") as write:
        for file in files:
            write(file, [("cat", 0.9)])
    written = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert len(written) == len(files)
    assert (tmp_path / "out" / "p" / "cat" / "1.png.jpg") in written


def test_a_picture_that_cannot_be_written_is_an_error_of_the_house(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 10), "red").save("a.png")
    (tmp_path / "out" / "a.png.jpg").mkdir(parents=True)
    (tmp_path / "out" / "a.png.jpg" / "file").write_text("")
    refused = pytest.raises(UserError, match="^cannot write to --pictures out: ")
    with refused, annotating("out") as write:
        write("a.png", [("cat", 0.9)])


def test_each_image_gets_a_copy_and_unreadable_ones_none(tmp_path):
    Image.new("RGB", (600, 300), "red").save(tmp_path / "a.png")
    out = tmp_path / "out"
    with annotating(str(out)) as write:
        write(str(tmp_path / "a.png"), [("<cat> 猫 \x1b", 0.9)])
        write(str(tmp_path / "gone.png"), [("cat", 0.9)])
    (path,) = (path for path in out.rglob("*") if path.is_file())
    with Image.open(path) as picture:
        assert picture.size[0] == WIDTH and picture.getpixel((100, 100))[0] > 240


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with annotating("") as write:
        write("a.png", [("cat", 0.9)])
    assert list(tmp_path.iterdir()) == []


def test_a_heat_map_is_beside_the_image():
    image = np.full((10, 20, 1), 200, np.uint8)
    heat = np.full((30, 30, 3), (250, 100, 10), np.uint8)
    plain = annotated(image, [("cat", 0.9)])
    picture = annotated(image, [("cat", 0.9)], heat)
    assert picture.size[0] == 2 * WIDTH and picture.size[1] > plain.size[1]
    pixels = np.asarray(picture)
    is_hot = (pixels == (250, 100, 10)).all(-1)
    assert is_hot[:, WIDTH:].sum() == WIDTH**2 and not is_hot[:, :WIDTH].any()
    middle = WIDTH // 2
    assert (pixels[middle, 10 : WIDTH - 10] == 200).all()
    is_blue = (pixels == BLUE).all(-1)
    assert is_blue[:, :WIDTH].any() and not is_blue[:, WIDTH:].any()
    assert (pixels[WIDTH:, WIDTH:] == 255).all()  # no caption


@pytest.mark.parametrize("caption", [OF_CLASS, OF_ANY_CLASS])
def test_the_caption_is_below_the_heat_map_and_fits(caption):
    image = np.full((10, 10, 1), 200, np.uint8)
    heat = np.full((30, 30, 3), (250, 100, 10), np.uint8)
    plain = np.asarray(annotated(image, [("cat", 0.9)], heat))
    is_written = (np.asarray(annotated(image, [("cat", 0.9)], heat, caption)) != plain).any((0, 2))
    columns = np.flatnonzero(is_written)
    assert columns.min() > WIDTH and columns.max() < 2 * WIDTH - EDGE
    assert columns.max() - columns.min() > WIDTH / 2
