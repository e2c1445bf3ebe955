"""Splits: complete, disjoint, stratified, repeatable."""

import numpy as np
import pytest

from vision.data.sources import open_splits
from vision.data.sources.arrays import ArraySource
from vision.data.splits import Subset, make_splits, stratify
from vision.errors import UserError


def _source(labels, classes=None, kind="made"):
    """Images whose pixels are their own number."""
    images = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2, 1)
    return ArraySource(images, labels, classes or [f"c{i}" for i in range(max(labels) + 1)], kind)


def _numbers(split):
    return [int(split[i]["image"].reshape(4).view(np.uint32).item()) for i in range(len(split))]


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_within_one_of_their_shares(seed):
    rng = np.random.RandomState(seed)
    fractions = rng.dirichlet([3, 2, 1]) * 0.94 + 0.02
    # large enough that no split is owed less than one image
    sizes = rng.randint(50, 400, rng.randint(2, 40))
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    parts = stratify(labels, fractions, seed)
    counts = np.stack([np.bincount(labels[part], minlength=len(sizes)) for part in parts], -1)
    assert np.abs(counts - sizes[:, None] * fractions).max() < 1
    assert np.abs(counts.sum(0) - len(labels) * fractions).max() < 1
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))


def test_tiny_classes():
    labels = np.repeat(np.arange(5), [1, 2, 3, 4, 90])
    counts = np.stack(
        [np.bincount(labels[part], minlength=5) for part in stratify(labels, (0.7, 0.2, 0.1), 0)],
        -1,
    )
    assert (counts[2:] >= 1).all() and (counts[:, 0] >= 1).all()
    np.testing.assert_array_equal(counts.sum(1), [1, 2, 3, 4, 90])


def test_digits_are_divided_as_asked():
    source = open_splits("digits")["all"]
    splits = make_splits({"all": source}, seed=3)
    assert list(splits) == ["train", "val", "test"]
    assert abs(len(splits["val"]) - 0.2 * 1797) < 1 and sum(map(len, splits.values())) == 1797
    indices = np.concatenate([split.indices for split in splits.values()])
    np.testing.assert_array_equal(np.sort(indices), np.arange(1797))
    val = splits["val"]
    assert (
        val.name(4) == f"digits[{val.indices[4]}]"
        and val.classes == source.classes
        and not val.encoded
    )
    np.testing.assert_array_equal(val[4]["image"], source.images[val.indices[4]])
    assert val[4]["label"] == val.labels[4] == source.labels[val.indices[4]]


FROZEN = [10, 16, 21, 35, 45]


def test_the_seed_decides_and_nothing_else():
    source = _source([0] * 30 + [1] * 20)
    first, same, other = (make_splits({"all": source}, seed=seed) for seed in (1, 1, 2))
    assert _numbers(first["test"]) == _numbers(same["test"]) != _numbers(other["test"])
    # Frozen: another machine or version must not move an image from test to train.
    assert _numbers(first["test"]) == FROZEN
    # A class keeps its division when images of another class come after it.
    more = make_splits({"all": _source([0] * 30 + [1] * 20 + [2] * 20)}, seed=1)
    assert [n for n in _numbers(more["test"]) if n < 50] == FROZEN


def test_own_splits_are_kept_and_missing_ones_carved_from_train():
    # c is in the test split alone
    labels = [0] * 60 + [1] * 40
    abc = list("abc")
    train = _source(labels, abc)
    val = _source([0, 1], abc)
    test = _source([1, 0, 2], abc)
    everything = make_splits({"train": train, "val": val, "test": test})
    assert (
        _numbers(everything["train"]) == list(range(100))
        and everything["val"] is val
        and everything["test"] is test
    )

    no_val = make_splits({"train": train, "test": test}, val_fraction=0.25)
    assert np.bincount(no_val["train"].labels).tolist() == [45, 30] and no_val["test"] is test
    assert sorted(_numbers(no_val["train"]) + _numbers(no_val["val"])) == list(range(100))

    no_test = make_splits({"train": train, "val": val}, val_fraction=0.25)
    assert np.bincount(no_test["val"].labels).tolist() == [15, 10] and no_test["test"] is val
    assert sorted(_numbers(no_test["train"]) + _numbers(no_test["val"])) == list(range(100))

    for own in ({"test": test}, {"val": test}):  # to learn from all of train, as papers do
        splits = make_splits({"train": train} | own, val_fraction=0.0)
        assert (
            _numbers(splits["train"]) == list(range(100))
            and splits["val"] is splits["test"] is test
        )
    assert make_splits({"train": train, "val": val, "test": test}, val_fraction=0.0)["val"] is val

    only_train = make_splits({"train": train}, (0.5, 0.3, 0.2))
    assert [len(split) for split in only_train.values()] == [50, 30, 20]


def test_subset_of_a_subset():
    source = _source([0, 1, 0, 1, 0, 1])
    part = Subset(Subset(source, [5, 3, 1, 0]), [3, 0])
    assert _numbers(part) == [0, 5] and part.labels.tolist() == [0, 1] and part.name(1) == "made[5]"


@pytest.mark.parametrize(
    ("message", "splits", "options"),
    [
        ("sum to 1", {"all": [0, 1] * 20}, {"fractions": (0.7, 0.2, 0.2)}),
        ("above 0", {"all": [0, 1] * 20}, {"fractions": (0.8, 0.3, -0.1)}),
        ("three", {"all": [0, 1] * 20}, {"fractions": (0.8, 0.2)}),
        ("val_fraction", {"train": [0, 1] * 20, "test": [0, 1]}, {"val_fraction": 1.0}),
        ("val_fraction", {"train": [0, 1] * 20, "test": [0, 1]}, {"val_fraction": -0.1}),
        ("no train split, only test", {"test": [0, 1]}, {}),
        ("no images are left for", {"all": [0, 1, 1]}, {}),
        ("at least 2 classes.* images of 1 of", {"all": [0] * 20}, {}),
        ("at least 2 classes.* images of 1 of", {"all": [1] * 20}, {}),
        ("they are -1 to 1", {"train": [0, 1] * 20, "test": [-1, 1]}, {}),
    ],
)
def test_mistakes(message, splits, options):
    sources = {
        name: _source(labels, None if name == "all" else ["a", "b"])
        for name, labels in splits.items()
    }
    with pytest.raises(UserError, match=message):
        make_splits(sources, **options)
