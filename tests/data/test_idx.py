"""MNIST's own files."""

import gzip
import pathlib

import numpy as np
import pytest

from vision.data.sources import open_splits
from vision.errors import UserError

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "fashion-mnist"


def idx(array):
    header = bytes((0, 0, 8, array.ndim))
    return header + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (6, 5, 4)), np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def folder(arrays, tmp_path):
    images, labels = arrays
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[:3])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[:3])))
    return tmp_path


def test_images_and_labels(folder, arrays):
    splits = open_splits(f"idx:{folder}")
    assert list(splits) == ["train", "test"] and splits["train"].classes == ("0", "1", "2")
    for split, count in (("train", 6), ("test", 3)):
        source = splits[split]
        assert len(source) == count
        np.testing.assert_array_equal(source.labels, arrays[1][:count])
        for i in range(count):
            np.testing.assert_array_equal(source[i]["image"][..., 0], arrays[0][i])


def test_names_of_classes(folder):
    (folder / "classes.txt").write_text("shirt\ncoat\n\nbag\n")
    assert open_splits(f"idx:{folder}")["train"].classes == ("shirt", "coat", "bag")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"", "is not an IDX file of bytes with 3 axes"),
        ("train-images-idx3-ubyte", idx(np.zeros((6, 5))), "is not an IDX file"),
        ("train-images-idx3-ubyte", idx(np.zeros((6, 5, 4)))[:-1], "is damaged: 119 bytes"),
        ("train-images-idx3-ubyte", idx(np.zeros((5, 5, 4))), "5 images, but .* 6 labels"),
        ("train-images-idx3-ubyte", idx(np.zeros((0, 5, 4))), "is damaged"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(idx(np.zeros(3)))[:-9], "cannot be read"),
        ("t10k-labels-idx1-ubyte.gz", b"not gzipped", "cannot be read"),
        ("classes.txt", b"shirt\ncoat", "must list at least 3 different"),
        ("classes.txt", b"shirt\ncoat\ncoat", "must list at least 3 different"),
    ],
    # A gzip file has the time in it, and the names of tests must not change.
    ids=[
        "empty",
        "other axes",
        "cut",
        "fewer images",
        "none",
        "cut gzip",
        "no gzip",
        "too few names",
        "a name twice",
    ],
)
def test_damaged_files(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_splits(f"idx:{folder}")


def test_there_is_nothing(tmp_path):
    with pytest.raises(UserError, match="has no train-images-idx3-ubyte"):
        open_splits(f"idx:{tmp_path}")


def test_fashion_mnist():
    if not SHARED.is_dir():
        pytest.skip("needs Fashion-MNIST's four files in ../shared/data/fashion-mnist")
    splits = open_splits(f"idx:{SHARED}")
    assert {name: len(source) for name, source in splits.items()} == {"train": 60000, "test": 10000}
    for source in splits.values():
        assert (np.bincount(source.labels) == len(source) / 10).all()
        assert source[0]["image"].shape == (28, 28, 1)
