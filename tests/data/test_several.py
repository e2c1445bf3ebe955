"""Several sources as one: classes by name, names that stay, and their division."""

import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

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


def test_images_without_names_are_called_by_their_place():
    joined = open_splits("digits + digits")["all"]
    assert joined.keys()[3] == "all[3]" and joined.keys()[1797 + 3] == "2:all[3]"
    assert not joined.named
    splits = make_splits({"all": joined})
    assert sum(map(len, splits.values())) == 2 * 1797


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


def test_classes_of_a_run_without_images(tmp_path):
    (tmp_path / "data.json").write_text('{"classes": ["7", "three"]}')
    source = open_splits(f"empty:{tmp_path} + digits")["all"]
    assert source.classes[:2] == ("7", "three") and len(source.classes) == 11
    assert len(source) == 1797 and (source.labels == 1).sum() == 0
    with pytest.raises(UserError, match="has no images"):
        open_splits(f"empty:{tmp_path} + empty:{tmp_path}")
    with pytest.raises(UserError, match="neither a run nor a bundle: it has no data.json and no"):
        open_splits(f"empty:{tmp_path / 'nowhere'}")


def test_changes_are_for_a_source_alone():
    with pytest.raises(UserError, match="imbalance= is for a source alone"):
        open_splits("digits?imbalance=10 + digits")


def test_an_unreadable_image_is_named(folders, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"not an image")
    source = open_splits(f"folder:{folders}/old + folder:{tmp_path}")["all"]
    with pytest.raises(UnreadableImage):
        source[20]
