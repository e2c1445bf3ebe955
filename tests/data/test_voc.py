"""Pascal VOC: where images lie, which split they are in, and what cannot be used."""

from pathlib import PurePath

import pytest

from tests.data.boxes import labels, names_by_kind, voc, write_image
from vision.data.sources import open_splits
from vision.errors import UserError


@pytest.mark.parametrize("images", ["images", "JPEGImages", ".", "annotations"])
def test_voc_finds_its_images(tmp_path, images):
    for name in ("a", "b", "c"):
        write_image(tmp_path / images / f"{name}.jpg")
    voc(tmp_path / "annotations" / "a.xml", "a.jpg", ("x", (1, 1, 9, 9)))
    voc(tmp_path / "annotations" / "b.xml", "b", ("y", (1, 1, 9, 9)))  # as NEU has it in places
    voc(tmp_path / "annotations" / "other.xml", "C:\\photos\\c.jpg", ("y", (1, 1, 9, 9)))
    assert labels(open_splits(f"voc:{tmp_path}")["all"]) == {
        "a.jpg": "x",
        "b.jpg": "y",
        "c.jpg": "y",
    }


def test_voc_says_which_files_it_cannot_use(tmp_path):
    for name in ("a", "b", "c", "bomb", "loose", "sub/double", "sup/double"):
        write_image(tmp_path / f"{name}.png")
    # a copy of b's, renamed: its own name counts
    voc(tmp_path / "a.xml", "b.png", ("x", (1, 1, 9, 9)))
    voc(tmp_path / "b.xml", "b.png", ("y", (1, 1, 9, 9)))
    voc(tmp_path / "gone.xml", "gone.png", ("y", (1, 1, 9, 9)))
    voc(tmp_path / "double.xml", "double.png", ("y", (1, 1, 9, 9)))
    (tmp_path / "c.xml").write_text("<annotation>\n<filename>c.png</filename")
    (tmp_path / "bomb.xml").write_text(
        '<!DOCTYPE a [<!ENTITY b "bbbbbbbb">]><annotation>&b;</annotation>'
    )
    splits = open_splits(f"voc:{tmp_path}")
    assert labels(splits["all"]) == {"a.png": "x", "b.png": "y"}
    assert names_by_kind(splits) == {
        "annotations name a different image than the one with their own name": ["a.xml"],
        "annotations cannot be read": ["bomb.xml", "c.xml"],
        "annotations have no image": ["double.xml", "gone.xml"],
        "images have no annotation and are left out": ["loose.png"],
    }
    details = {PurePath(f.name).name: f.detail for f in splits["all"].findings}
    assert details["c.xml"].startswith("line 2, column") and "document type" in details["bomb.xml"]
    assert [f.lost for f in splits["all"].findings] == [False, True, True, True, True, False]


def test_voc_splits(tmp_path):
    for name in ("train/a", "train/b", "valid/c", "Test/d"):
        write_image(tmp_path / "roboflow" / f"{name}.png")
        voc(tmp_path / "roboflow" / f"{name}.xml", "x.png", (name[-1], (1, 1, 9, 9)))
    splits = open_splits(f"voc:{tmp_path / 'roboflow'}")
    assert {k: list(labels(v)) for k, v in splits.items()} == {
        "train": ["a.png", "b.png"],
        "val": ["c.png"],
        "test": ["d.png"],
    }
    write_image(tmp_path / "roboflow" / "e.png")
    voc(tmp_path / "roboflow" / "e.xml", "e.png", ("e", (1, 1, 9, 9)))
    with pytest.raises(UserError, match=r"e.png is in no split"):
        open_splits(f"voc:{tmp_path / 'roboflow'}")

    root = tmp_path / "devkit"
    for name in "abcde":
        write_image(root / "JPEGImages" / f"{name}.jpg")
        voc(root / "Annotations" / f"{name}.xml", f"{name}.jpg", ("xy"[name > "b"], (1, 1, 9, 9)))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, names in {"trainval": "a\nb\n", "test": "c\nnone\n"}.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    splits = open_splits(f"voc:{root}")
    assert {k: list(labels(v)) for k, v in splits.items()} == {
        "train": ["a.jpg", "b.jpg"],
        "test": ["c.jpg"],
    }
    assert names_by_kind(splits) == {
        "listed images have no annotation": ["test.txt: none"],
        "annotations are not listed in ImageSets/Main and are left out": ["d.xml", "e.xml"],
    }


def test_voc_tells_frames_of_the_same_name_apart(tmp_path):
    for video in ("1", "2", "3"):
        write_image(tmp_path / "images" / video / "0001.png")
        voc(
            tmp_path / "annotations" / video / "0001.xml", "0001.png", (f"of {video}", (1, 1, 9, 9))
        )
    source = open_splits(f"voc:{tmp_path}")["all"]
    assert [source.name(i).split("/")[-2] for i in range(3)] == [
        "1",
        "2",
        "3",
    ] and source.labels.tolist() == [0, 1, 2]


def test_voc_lists_that_share_images(tmp_path):
    """Train and val are parts of trainval; whatever else is shared is said, and test is kept
    clean."""
    for name in "abcd":
        write_image(tmp_path / "JPEGImages" / f"{name}.jpg")
        voc(
            tmp_path / "Annotations" / f"{name}.xml",
            f"{name}.jpg",
            ("xy"[name > "b"], (1, 1, 9, 9)),
        )
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for split, names in {"trainval": "abcd", "train": "ab", "val": "bc", "test": "ad"}.items():
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
    splits = open_splits(f"voc:{tmp_path}")
    assert {k: "".join(labels(v)) for k, v in splits.items()} == {
        "val": "b.jpgc.jpg",
        "test": "a.jpgd.jpg",
    }
    assert names_by_kind(splits) == {
        "images are listed in several splits": ["b.xml", "a.xml", "d.xml"]
    }
