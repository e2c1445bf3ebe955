"""Pictures with a model's answers: what is drawn, and what the files are called."""

import numpy as np
from PIL import Image

from vision.data.annotated import BLUE, EDGE, NAMES, NUMBERS, WIDTH, annotated, annotating, name_of


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


def test_names_do_not_collide():
    assert name_of("photos/cat/1.png") == "photos_cat_1.png.jpg"
    assert name_of("./photos//1.png") == "photos_1.png.jpg"
    assert name_of("../1.png") != name_of("1.png")
    long = [name_of(f"{letter}{'x' * 300}/1.png") for letter in "ab"]
    assert len(set(long)) == 2 and max(map(len, long)) < 200


def test_each_image_gets_a_copy_and_unreadable_ones_none(tmp_path):
    Image.new("RGB", (600, 300), "red").save(tmp_path / "a.png")
    out = tmp_path / "out"
    with annotating(str(out)) as write:
        write(str(tmp_path / "a.png"), [("<cat> 猫 \x1b", 0.9)])
        write(str(tmp_path / "gone.png"), [("cat", 0.9)])
        write(str(tmp_path / "b.png"), ValueError("unreadable"))
    (path,) = out.iterdir()
    with Image.open(path) as picture:
        assert picture.size[0] == WIDTH and picture.getpixel((100, 100))[0] > 240


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with annotating("") as write:
        write("a.png", [("cat", 0.9)])
    assert list(tmp_path.iterdir()) == []
