"""`python -m vision.data sheet`: which images it shows where."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.support.commands import outcome, refusal
from vision.data import __main__ as command
from vision.data.sheet import GAP, NAMES, TILE, write_sheet
from vision.errors import UserError


def tile(sheet, row, column):
    left = NAMES + column * (TILE + GAP)
    top = GAP + row * (TILE + GAP)
    return sheet[top : top + TILE, left : left + TILE].astype(int)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return [data.images[data.target == label] * 255 / 16 for label in range(10)]


def test_a_row_has_images_of_its_class(tmp_path, capsys, digits):
    path = tmp_path / "sheet.png"
    code, out, _ = outcome(command.main, capsys, "sheet", "digits", "--out", path, "--per-class=3")
    assert code == 0 and "10 classes" in out
    sheet = np.asarray(Image.open(path))
    for label, images in enumerate(digits):
        top = GAP + label * (TILE + 2 * GAP)
        left = NAMES + 2 * (TILE + GAP)  # the last column has the last image of the class
        center = sheet[top : top + TILE : TILE // 8, left : left + TILE : TILE // 8, 0].astype(int)
        assert np.abs(center - images[-1]).max() <= 1


def test_with_a_config_the_second_row_is_augmented(tmp_path, capsys):
    path = tmp_path / "sheet.webp"
    argv = ["sheet", "digits", "--out", path, "--per-class=2", "--config", "configs/digits.py"]
    assert outcome(command.main, capsys, *argv)[0] == 0
    turned = np.asarray(Image.open(path))
    assert turned.shape[0] == GAP + 10 * (2 * (TILE + GAP) + GAP)
    assert np.abs(tile(turned, 0, 0) - tile(turned, 1, 0)).mean() > 10
    quiet = [f"--config.augment.{key}" for key in ("affine=False",)]
    assert outcome(command.main, capsys, *argv, *quiet)[0] == 0
    same = np.asarray(Image.open(path))
    assert np.abs(tile(same, 0, 0) - tile(same, 1, 0)).mean() < 3  # but for WebP's compression


def test_images_that_cannot_be_read_are_marked(tmp_path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (30, 20), "red").save(tmp_path / "photos" / name / "a.png")
    (tmp_path / "photos" / "dog" / "b.png").write_text("no image")
    path = tmp_path / "sheet.png"
    source = f"folder:{tmp_path / 'photos'}"
    assert outcome(command.main, capsys, "sheet", source, "--out", path)[0] == 0
    sheet = np.asarray(Image.open(path)).astype(int)
    red = np.array([255, 0, 0])
    top = GAP + TILE // 2
    second = top + TILE + 2 * GAP
    assert (sheet[top, NAMES + 10] == red).all() and (sheet[second, NAMES + 10] == red).all()
    assert (sheet[second, NAMES + TILE + GAP + 3] == [240, 241, 243]).all()


def test_what_cannot_be_drawn_is_refused(tmp_path, capsys):
    message = refusal(command.main, capsys, "sheet", "digits", "--out", tmp_path / "sheet.gif")
    assert "must end in .png" in message
    assert "--out sheet.png" in refusal(command.main, capsys, "sheet", "digits")
    missing = tmp_path / "missing" / "sheet.png"
    assert "cannot write" in refusal(command.main, capsys, "sheet", "digits", "--out", missing)


@pytest.mark.parametrize(("suffix", "most"), [("webp", 16_383), ("jpg", 65_500)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_sheet_too_large_for_its_format_is_refused_with_the_remedy(
    tmp_path, suffix, most, turned
):
    path = tmp_path / f"sheet.{suffix}"
    size = (8, most)[:: -1 if turned else 1]
    write_sheet(path, Image.new("L", size))
    with Image.open(path) as picture:
        assert picture.size == size
    before = path.read_bytes()
    larger = Image.new("L", (size[0] + turned, size[1] + (not turned)))
    with pytest.raises(UserError, match=f"{most:,} per side: give a name that ends in .png"):
        write_sheet(path, larger)
    assert path.read_bytes() == before
    write_sheet(tmp_path / "sheet.png", larger)
