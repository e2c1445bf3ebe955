"""What goes into a pack, and what does not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.test_pack import pack_of
from vision import cli
from vision.config import default
from vision.data import __main__ as command
from vision.data.pack import Options
from vision.data.pipeline import named_splits
from vision.data.sources import open_splits
from vision.errors import UserError


def test_images_that_are_no_files_become_png(tmp_path):
    theirs = open_splits("digits")["all"]
    manifest = pack_of("digits", tmp_path / "new" / "digits")
    ours = open_splits(f"packed:{tmp_path}/new/digits")["all"]
    assert manifest["parts"]["all"]["class_counts"] == np.bincount(theirs.labels).tolist()
    assert (len(ours), ours.name(17), ours.file(17)[1:4]) == (1797, "digits[17]", b"PNG")
    for index in range(0, 1797, 10):
        assert np.array_equal(ours[index]["image"], theirs[index]["image"]) and ours[index][
            "image"
        ].shape == (8, 8, 1)


def test_larger_images_shrink(tmp_path):
    random = np.random.RandomState(0)
    for name, shape, form in (
        ("a/large.jpg", (120, 90, 3), "JPEG"),
        ("a/small.jpg", (30, 60, 3), "JPEG"),
        ("b/gray.jpg", (80, 200), "JPEG"),
        ("b/large.png", (101, 50, 3), "PNG"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = random.randint(0, 256, shape).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / name, form)
    pack_of(f"folder:{tmp_path}", tmp_path / "out", options=Options(shorter_side=40, quality=90))
    ours = open_splits(f"packed:{tmp_path}/out")["all"]
    theirs = open_splits(f"folder:{tmp_path}")["all"]
    shapes = {Path(ours.name(i)).name: ours[i]["image"].shape for i in range(4)}
    expected = {
        "large.jpg": (53, 40, 3),
        "small.jpg": (30, 60, 3),
        "gray.jpg": (40, 100, 1),
        "large.png": (81, 40, 3),
    }
    assert shapes == expected
    assert [Image.open(io.BytesIO(ours.file(i))).format for i in range(4)] == [
        "JPEG",
        "JPEG",
        "JPEG",
        "PNG",
    ]
    assert ours.file(1) == theirs.file(1)
    for index in (0, 2, 3):  # halves and the like: the mean stays
        assert abs(ours[index]["image"].mean() - theirs[index]["image"].mean()) < 2


def test_changes_pack_the_three_splits(tmp_path):
    spec = "digits?imbalance=10&flip_labels=0.1"
    manifest = pack_of(spec, tmp_path / "out")
    c = default()
    c.data.source = spec
    theirs, _ = named_splits(c.data, c.seed)
    c.data.source = f"packed:{tmp_path}/out"
    ours, _ = named_splits(c.data, c.seed)
    for name in ("train", "val", "test"):
        assert np.array_equal(ours[name].labels, theirs[name].labels)
        assert (
            ours[name].name(5) == theirs[name].name(5)
            and ours[name][5]["label"] == theirs[name][5]["label"]
        )
    assert manifest["request"]["source"] == spec


def test_packs_that_are_none(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_splits(f"packed:{tmp_path}/none")
    with pytest.raises(UserError, match="has no manifest.json"):
        open_splits(f"packed:{tmp_path}")
    for text, message in (
        ("{", "manifest.json is damaged: line 1, column 2"),
        ("[]", "manifest.json is damaged"),
        ('{"format": 9}', "has format 9"),
    ):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=message):
            open_splits(f"packed:{tmp_path}")


@pytest.mark.parametrize(
    "words,message",
    [
        ([], "the command = '' is unknown"),
        (["pak"], "did you mean 'pack'"),
        (["pack", "digits"], "usage: python -m vision.data pack SOURCE OUT"),
        (["pack", "digits", "x", "--quality=0"], "--quality must be in [1, 100], got 0"),
        (
            ["pack", "digits", "x", "--max-unreadable=2"],
            "--max-unreadable must be in [0, 1], got 2.0",
        ),
        (["verify", "x"], "folder 'x' does not exist"),
    ],
)
def test_mistakes_are_named(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.run(command.main, words)
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
