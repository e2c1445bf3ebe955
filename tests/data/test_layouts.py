"""Folders as people have them: the layout is recognized, or refused with what to write instead."""

import io
import os
import socket

import numpy as np
import pytest
from PIL import Image

from vision.data.__main__ import main
from vision.data.files import split_of
from vision.data.sources import open_splits
from vision.errors import UserError

PETS = ("cat", "dog")


def photo(extension="png", value=0):
    file = io.BytesIO()
    pixels = np.full((8, 8, 3), value, np.uint8)
    Image.fromarray(pixels).save(file, Image.registered_extensions()[f".{extension}"])
    return file.getvalue()


def write(root, *names):
    """Writes an image for each name, "train/cat/0.png"; a folder "train/cat/" gets two."""
    for name in names:
        files = [f"{name}{i}.png" for i in range(2)] if name.endswith("/") else [name]
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(photo())
    return f"folder:{root}"


def sizes(spec):
    return {name: len(source) for name, source in open_splits(spec).items()}


def kinds_of(source):
    return {finding.kind for finding in source.findings}


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing"),
        ("TRAIN", "Test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("training_set/training_set", "test_set/test_set"),
        ("train_images", "test_images"),
        ("trainset", "testset"),
        ("Training Data", "Test Data"),
        ("dataset/train", "dataset/test"),
        ("archive/Pets/Train", "archive/Pets/Test"),
        ("images/train", "images/test"),
        ("pets-train", "pets-test"),
        ("train2017", "test2017"),
        ("training", "evaluation"),
        ("real_vs_fake/real-vs-fake/train", "real_vs_fake/real-vs-fake/test"),
    ],
)
def test_names_of_splits_and_wrappers(tmp_path, names):
    spec = write(tmp_path, *(f"{name}/{pet}/" for name in names for pet in PETS))
    splits = open_splits(spec)
    assert {name: len(split) for name, split in splits.items()} == {"train": 4, "test": 4}
    assert splits["train"].classes == PETS


def test_split_names_are_whole_words():
    assert split_of("Valid") == ("val", "") and split_of("my-Val_set 2") == ("val", "my")
    assert split_of("contest") is None and split_of("trains") is None
    assert split_of("train_test") is None and split_of("test positive") == ("test", "positive")


def test_classes_that_are_named_a_little_like_splits(tmp_path):
    splits = open_splits(write(tmp_path, "test positive/", "test negative/", "untested/"))
    assert splits["all"].classes == ("test negative", "test positive", "untested")


@pytest.mark.parametrize(
    "names, messages",
    [
        (  # PlantVillage
            [f"{kind}/{pet}/" for kind in ("color", "gray", "segmented") for pet in PETS],
            ["write folder:{}/color,", "folder:{}?level=2", "folder:{}?level=1"],
        ),
        (
            [f"plants/{kind}/{pet}/" for kind in ("color", "gray") for pet in PETS],
            ["If 'cat', 'dog' are the classes, write folder:{}/plants/color"],
        ),
        (
            [f"fold{i}/{pet}/" for i in range(1, 6) for pet in PETS],
            ["'fold1', 'fold2', 'fold3', ...", "?level=2"],
        ),
        (
            [f"patient{i}/{label}/" for i in range(3) for label in (0, 1)],
            ["'0', '1'", "folder:{}?level=2"],
        ),
        (
            [f"{pet}/{split}/" for pet in PETS for split in ("train", "test")],
            ["move cat/test to test/cat"],
        ),
        (["JPEGImages/", "SegmentationClass/"], ["look like parts of a dataset"]),
        (["labeled/cat/", "labeled/dog/", "unlabeled/"], ["look like parts of a dataset"]),
        (["Dataset_A/cat/", "Dataset_A/dog/", "Dataset_B/cat/"], ["look like parts"]),
        (["cat/images/", "cat/masks/", "dog/images/", "dog/masks/"], ["csv:FILE, without these"]),
        (["cat/", "dog/", "test/"], ["'test' contains images outside class folders"]),
        (["images/", "masks/"], ["look like parts of a dataset"]),
        (["images_001/", "images_002/"], ["csv:FILE"]),
        (["fold1/", "fold2/"], ["csv:FILE"]),
        (["train/", "test/", "train.csv"], ["images outside class folders", "csv:{}/train.csv?"]),
        (["train/train/", "test/test/"], ["'test' contains images outside class folders"]),
        (["train_images/", "test_images/"], ["outside class folders"]),
        (["images/train/", "images/val/", "labels/train/0.txt"], ["YOLO's: convert them to COCO"]),
        (["train/images/", "valid/images/", "train/labels/0.txt"], ["YOLO's"]),
        (["shots/cat/", "shots/dog/"], ["If 'cat', 'dog' in it are the classes", "{}/shots"]),
        (
            ["train/pets/cat/", "train/pets/dog/", "test/pets/cat/"],
            ["a single class, 'pets', in 'train'", "folder:{}?level=2"],
        ),
        (
            ["train/cat/", "test/cat/", "test/dog/"],
            ["a single class, 'cat', in 'train'"],
        ),
        (["train/cat/", "train/dog/", "extra/cat/"], ["mixes split folders"]),
    ],
)
def test_what_does_not_look_like_classes_is_refused(tmp_path, names, messages):
    spec = write(tmp_path, *names)
    with pytest.raises(UserError) as error:
        open_splits(spec)
    for message in messages:
        assert message.format(tmp_path) in str(error.value)


def test_the_level_of_the_classes(tmp_path):
    spec = write(tmp_path, *(f"{kind}/{pet}/" for kind in ("color", "gray") for pet in PETS))
    outer = open_splits(f"{spec}?level=1")["all"]
    inner = open_splits(f"{spec}?level=2")["all"]
    assert outer.classes == ("color", "gray") and inner.classes == PETS
    assert len(outer) == len(inner) == 8 and inner.labels.tolist() == [0] * 4 + [1] * 4
    with pytest.raises(UserError, match="level must be 1 to 9, got 'two'"):
        open_splits(f"{spec}?level=two")


def test_folders_below_classes_that_say_nothing(tmp_path):
    """A class may have folders: "images" in each, or a patient who has images of two classes."""
    generic = write(tmp_path / "a", "train/n01/images/", "train/n02/images/")
    assert open_splits(generic)["train"].classes == ("n01", "n02")
    patients = write(tmp_path / "b", "ill/anna/", "ill/bert/", "well/anna/", "well/carl/")
    assert open_splits(patients)["all"].classes == ("ill", "well")


def test_a_copy_of_all_splits_is_left_out(tmp_path):
    """As in a well-known archive of chest X-rays."""
    names = [f"{split}/{pet}/" for split in ("train", "test", "val") for pet in PETS]
    names += [f"chest/{name}" for name in names] + ["__MACOSX/chest/train/cat/._0.jpeg"]
    splits = open_splits(write(tmp_path, *names))
    assert {name: len(split) for name, split in splits.items()} == dict.fromkeys(splits, 4)
    assert kinds_of(splits["train"]) == {
        "copies of all splits are left out",
        "operating system folders are left out",
    }
    write(tmp_path, "chest/train/cat/more.png")
    with pytest.raises(UserError, match="mixes split folders"):
        open_splits(f"folder:{tmp_path}")


def test_a_copy_of_all_classes_is_left_out(tmp_path):
    """As in two archives of brain scans and of leaves."""
    scans = write(tmp_path / "a", "cat/", "dog/", "scans/cat/", "scans/dog/")
    assert len(open_splits(scans)["all"]) == 4
    assert kinds_of(open_splits(scans)["all"]) == {"copies of all classes are left out"}
    leaves = write(tmp_path / "b", *(f"{c}/{p}/" for c in ("l/l", "l/l/l") for p in PETS))
    assert open_splits(leaves)["all"].classes == PETS and len(open_splits(leaves)["all"]) == 4
    write(tmp_path / "a", "scans/cat/more.png")
    with pytest.raises(UserError, match="both in 'scans' and next to it: write .*a/scans"):
        open_splits(scans)


def test_unlabeled_images_beside_splits(tmp_path):
    names = [f"seg_{split}/seg_{split}/{pet}/" for split in ("train", "test") for pet in PETS]
    splits = open_splits(write(tmp_path, *names, "seg_pred/seg_pred/"))
    assert list(map(len, splits.values())) == [4, 4]
    assert "images outside class folders are left out" in kinds_of(splits["train"])


def test_leftovers_of_systems(tmp_path, capsys):
    left_behind = [
        "cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
        "$RECYCLE.BIN/S-1-5-21/$R1A2B3.jpg",
        "System Volume Information/x.png",
        "#recycle/x.png",
        "dog/.ipynb_checkpoints/0-checkpoint.png",
        ".Trashes/501/x.png",
        "dog/._0.png",
        "dog/.secret.png",
    ]
    main(["info", write(tmp_path, "cat/", "dog/", *left_behind)])
    page = capsys.readouterr().out
    assert "4 all; 2 classes" in page
    assert "note: 6 operating system folders are left out" in page
    assert "note: macOS resource files are left out" in page
    assert "note: hidden images are left out" in page


def test_links_pipes_and_sockets(tmp_path, capsys):
    spec = write(tmp_path, "cat/", "dog/")
    os.symlink("../.cache/lost", tmp_path / "cat" / "lost.jpg")
    os.symlink("itself.png", tmp_path / "cat" / "itself.png")
    os.symlink("/nowhere/owl", tmp_path / "owl")
    os.mkfifo(tmp_path / "dog" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(tmp_path / "dog", os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/socket.jpg")
        os.close(folder)
        main(["info", spec])
    page = capsys.readouterr().out
    assert "note: 3 links lead nowhere: " in page and "lost.jpg: to ../.cache/lost" in page
    assert "note: 2 pipes, sockets and devices are left out" in page
    findings = open_splits(spec)["all"].findings
    assert len(findings) == 5 and all(finding.lost for finding in findings)


def test_formats(tmp_path, capsys):
    """What can be decoded is, in any case and without extension; the rest is named."""
    write(tmp_path, "cat/", "dog/1.JFIF", "dog/2.jpe", "dog/3", "dog/4.png.part")
    for extension in ("jpg", "avif", "webp", "jp2", "tga", "ppm"):
        (tmp_path / "owl").mkdir(exist_ok=True)
        (tmp_path / "owl" / f"a.{extension}").write_bytes(photo(extension))
    for name in ("emu/IMG_1.HEIC", "emu/IMG_2.heic", "emu/scan.dcm", "owl/b.svg"):
        write(tmp_path, name)
    main(["info", f"folder:{tmp_path}"])
    page = capsys.readouterr().out
    assert "11 all; 3 classes" in page and "unreadable" not in page
    assert "note: 2 HEIC photos cannot be decoded" in page and "pip install pillow-heif" in page
    assert "note: DICOM images cannot be decoded" in page
    assert "note: 2 files without an image extension are left out" in page
    assert "note: class folders without images are left out: emu: 1 .HEIC (HEIC photos" in page


def test_a_class_that_is_gone_is_in_the_error(tmp_path):
    spec = write(tmp_path, "cat/", *(f"dog/{i}.HEIC" for i in range(3)))
    message = "a single class, 'cat', but .* 'dog' has 3 .HEIC .*pip install pillow-heif"
    with pytest.raises(UserError, match=message):
        open_splits(spec)
    spec = write(tmp_path, "train/cat/", "train/dog/0.heic", "test/cat/", "test/dog/")
