"""Several sources as one: classes by name, names that stay, and their division."""

import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

import vision.data.sources.folder
from vision.data.decode import UnreadableImage
from vision.data.identity import keys_of
from vision.data.sources import is_same, members, open_splits
from vision.data.splits import make_splits
from vision.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """old has cats and dogs; new has dogs and owls; split has its own train and test."""
    root = tmp_path_factory.mktemp("several")
    images = {"old/cat": 10, "old/dog": 10, "new/dog": 5, "new/owl": 12}
    images |= {"split/train/owl": 4, "split/train/cat": 4, "split/test/owl": 2}
    for number, (folder, count) in enumerate(images.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (8, 8), 20 * number + i).save(root / folder / f"{i}.png")
    return root


def test_classes_are_the_same_by_name(folders):
    spec = f"folder:{folders}/old + folder:{folders}/new"
    source = open_splits(spec)["all"]
    assert source.classes == ("cat", "dog", "owl")
    assert np.bincount(source.labels).tolist() == [10, 15, 12]
    assert source.members.tolist() == [0] * 20 + [1] * 17
    for index in (0, 12, 22, 36):
        example = source[index]
        assert example["label"] == source.labels[index]
        file = Image.open(source.name(index))
        np.testing.assert_array_equal(example["image"][..., 0], np.asarray(file))
        assert source.file(index) == pathlib.Path(source.name(index)).read_bytes()
    copy = pickle.loads(pickle.dumps(source))
    assert copy.keys() == source.keys() and copy[30]["label"] == 2


def test_names_of_the_first_source_stay(folders):
    alone = open_splits(f"folder:{folders}/old")["all"]
    joined = open_splits(f"folder:{folders}/old + folder:{folders}/new")["all"]
    assert list(joined.keys()[:20]) == list(keys_of(alone, "all"))
    assert joined.keys()[20] == "2:dog/0.png" and len(set(joined.keys())) == 37


def test_members_that_differ_in_their_classes_are_read_once(folders, monkeypatch):
    """So that tasks of one folder do not read it again and again; other options open another."""
    opened = []
    read = vision.data.sources.folder.open

    def counting(argument, *, level=""):
        opened.append(argument)
        return read(argument, level=level)

    monkeypatch.setattr(vision.data.sources.folder, "open", counting)
    old = f"folder:{folders}/old"
    joined = open_splits(f"{old}?classes=cat + {old}?classes=dog + folder:{folders}/new")["all"]
    assert opened == [f"{folders}/old", f"{folders}/new"]
    cats, dogs = (open_splits(f"{old}?classes={name}", 0, 1)["all"] for name in ("cat", "dog"))
    for index, source in ((0, cats), (9, cats), (10, dogs), (19, dogs)):
        np.testing.assert_array_equal(joined[index]["image"], source[index % 10]["image"])
    opened.clear()
    open_splits(f"{old}?classes=cat&group=regex:([0-9]) + {old}?classes=dog")
    assert len(opened) == 2


def test_images_without_names_are_called_by_their_place():
    joined = open_splits("digits?classes=0,1 + digits?classes=2,3")["all"]
    keys = joined.keys()
    assert keys[:2] == ["all[0]", "all[1]"] and keys[360] == "2:all[2]"
    assert not joined.named
    splits = make_splits({"all": joined})
    assert sum(map(len, splits.values())) == len(joined) == 720
    with pytest.raises(UserError, match="names digits twice"):
        open_splits("digits + digits")


def test_sources_with_and_without_splits_of_their_own(folders):
    opened = open_splits(f"folder:{folders}/new + folder:{folders}/split")
    assert set(opened) == {"all", "train", "test"}
    splits = make_splits(opened)
    names = [name for split in splits.values() for name in keys_of(split, "")]
    assert len(names) == len(set(names)) == 17 + 10
    own = {name for name in keys_of(splits["test"], "") if name.startswith("2:")}
    assert own == {"2:test/owl/0.png", "2:test/owl/1.png"}


def test_a_folder_may_have_the_separator_in_its_name(folders):
    assert members("folder:black + white") == ["folder:black + white"]
    assert members("folder:a + folder:b + c + digits") == ["folder:a", "folder:b + c", "digits"]


def test_the_same_sources_by_other_paths(folders):
    spec = f"folder:{folders}/old + folder:{folders}/new"
    assert is_same(spec, f"folder:{folders}/new/../old + folder:{folders}/new/")
    assert not is_same(spec, f"folder:{folders}/old")
    assert not is_same(spec, f"folder:{folders}/new + folder:{folders}/old")


def test_classes_without_images():
    source = open_splits("empty:7,one%2C two + digits")["all"]
    assert source.classes[:2] == ("7", "one, two") and len(source.classes) == 11
    assert len(source) == 1797 and (source.labels == 1).sum() == 0
    with pytest.raises(UserError, match="has no images"):
        open_splits("empty:a + empty:b")
    for names in ("", "a,,b", "a,a"):
        with pytest.raises(UserError, match="must list different class names"):
            open_splits(f"empty:{names}")


def test_permuted_pixels_are_the_same_for_all_images():
    plain = open_splits("digits")["all"]
    permuted = open_splits("digits?permute=3&classes=4,5")["all"]
    again = open_splits("digits?classes=4,5&permute=3")["all"]
    other = open_splits("digits?classes=4,5&permute=4")["all"]
    rows = np.flatnonzero(np.isin(plain.labels, (4, 5)))
    order = np.random.RandomState(3).permutation(64)
    for index in (0, 17):
        image = permuted[index]["image"]
        pixels = plain[int(rows[index])]["image"].reshape(64, 1)
        np.testing.assert_array_equal(image.reshape(64, 1), pixels[order])
        np.testing.assert_array_equal(image, again[index]["image"])
        assert (image != other[index]["image"]).any()
        assert permuted[index]["label"] == permuted.labels[index]
    assert keys_of(permuted, "all")[0] == keys_of(plain, "all")[rows[0]]
    assert permuted.file(0) is None
    for seed in ("-1", "x"):
        with pytest.raises(UserError, match="permute must be a seed"):
            open_splits(f"digits?permute={seed}")


def test_changes_are_for_a_source_alone():
    with pytest.raises(UserError, match="imbalance= works only with a single"):
        open_splits("digits?imbalance=10 + digits")


def test_an_unreadable_image_is_named(folders, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"not an image")
    source = open_splits(f"folder:{folders}/old + folder:{tmp_path}")["all"]
    with pytest.raises(UnreadableImage):
        source[20]
