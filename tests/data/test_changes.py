"""A long tail and wrong labels, by a source's name."""

import numpy as np
import pytest

from vision.config import default
from vision.data.changes import flip, long_tail
from vision.data.pipeline import named_splits
from vision.data.sources import open_splits, parse
from vision.errors import UserError


def splits(source, seed=0):
    c = default().data
    c.source = source
    return named_splits(c, seed)[0]


def test_names_are_taken_apart():
    assert parse("mnist5k") == ("mnist5k", "", {})
    assert parse("voc:a/b?boxes=crop&margin=0.1") == (
        "voc",
        "a/b",
        {"boxes": "crop", "margin": "0.1"},
    )
    assert parse("parquet:data/train-?.parquet") == ("parquet", "data/train-?.parquet", {})
    assert parse("folder:what?/images?imbalance=3") == (
        "folder",
        "what?/images",
        {"imbalance": "3"},
    )
    assert parse("csv:C:/x.csv") == ("csv", "C:/x.csv", {})
    with pytest.raises(UserError, match="twice"):
        parse("mnist5k?seed=1&seed=2")
    with pytest.raises(UserError, match="'imbalanse' is unknown .did you mean 'imbalance'"):
        open_splits("mnist5k?imbalanse=3")


def test_cifar10_lt_has_the_papers_counts():
    """Cao et al. 2019, figure: 5,000 to 50 images, 12,406 in all. Their code cuts to whole
    numbers."""
    counts = np.bincount(np.repeat(range(10), 5000)[long_tail(np.repeat(range(10), 5000), 100)])
    assert (
        counts.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
        and counts.sum() == 12406
    )
    labels = np.repeat(range(100), 500)
    assert np.bincount(labels[long_tail(labels, 100)]).sum() == 10847  # CIFAR-100-LT


def test_only_train_is_long_tailed():
    plain = splits("digits")
    tailed = splits("digits?imbalance=20")
    counts = np.bincount(tailed["train"].labels)
    assert counts[0] == np.bincount(plain["train"].labels)[
        0
    ] and counts.max() / counts.min() == pytest.approx(20, rel=0.1)
    assert (np.diff(counts) <= 0).all()
    for name in ("val", "test"):
        np.testing.assert_array_equal(tailed[name].labels, plain[name].labels)
    names = [tailed["train"].name(i) for i in range(len(tailed["train"]))]
    assert len(set(names)) == len(names) and set(names) <= {
        plain["train"].name(i) for i in range(len(plain["train"]))
    }


def test_the_draw_is_fixed_but_by_its_own_seed():
    def names(source):
        train = splits(source)["train"]
        return [train.name(i) for i in range(len(train))]

    assert (
        names("digits?imbalance=20")
        == names("digits?imbalance=20&seed=0")
        != names("digits?imbalance=20&seed=1")
    )


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_so_many_labels_are_wrong_and_test_is_clean(share):
    plain = splits("digits")
    noisy = splits(f"digits?flip_labels={share}")
    for name in ("train", "val"):
        wrong = plain[name].labels != noisy[name].labels
        assert wrong.sum() == round(share * len(wrong))
        assert [noisy[name][i]["label"] for i in range(9)] == noisy[name].labels[:9].tolist()
        np.testing.assert_array_equal(noisy[name][3]["image"], plain[name][3]["image"])
    np.testing.assert_array_equal(plain["test"].labels, noisy["test"].labels)


def test_any_other_class_is_as_likely():
    labels = np.zeros(9000, np.int32)
    assert np.bincount(flip(labels, 4, 1.0, [0]), minlength=4).tolist() == pytest.approx(
        [0, 3000, 3000, 3000], abs=150
    )


def test_any_seed_will_do():
    big = splits(f"digits?imbalance=3&flip_labels=0.1&seed={2**32 + 1}")["train"]
    np.testing.assert_array_equal(
        big.labels, splits("digits?imbalance=3&flip_labels=0.1&seed=1")["train"].labels
    )


@pytest.mark.parametrize(
    "option", ["imbalance=0.5", "imbalance=x", "flip_labels=2", "imbalance=2&seed=-1", "seed=1.5"]
)
def test_what_cannot_be(option):
    with pytest.raises(UserError, match=option.split("&")[-1].split("=")[0]):
        splits(f"digits?{option}")
