"""Which training images keep their labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.data.labeled import draw_labeled
from vision.errors import UserError

NAMES = tuple("abcdefgh")


def labels_of(*counts):
    return np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts))


def counts_of(spec, labels, seed=0):
    return np.bincount(labels[draw_labeled(spec, labels, NAMES, seed)]).tolist()


def test_of_each_class_that_occurs():
    assert counts_of("4/class", labels_of(9, 0, 5)) == [4, 0, 4]


def test_at_most_so_many_of_each_class():
    assert counts_of("<=4/class", labels_of(9, 0, 3)) == [4, 0, 3]


def test_a_number_and_a_share_go_by_the_classes_sizes():
    assert counts_of("10", labels_of(50, 30, 20)) == [5, 3, 2]
    assert counts_of("10%", labels_of(50, 30, 20)) == [5, 3, 2]
    assert counts_of("0.5%", labels_of(600, 600)) == [3, 3]


def test_every_class_has_at_least_one():
    assert counts_of("10", labels_of(970, 10, 20)) == [8, 1, 1]
    assert counts_of("3", labels_of(970, 10, 20)) == [1, 1, 1]


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    st.floats(0, 1),
    st.integers(-(2**62), 2**62),
)
def test_a_number_is_drawn_exactly(sizes, share, seed):
    labels = labels_of(*sizes)
    present = np.count_nonzero(sizes)
    count = round(present + share * (len(labels) - present))
    drawn = draw_labeled(str(count), labels, NAMES, seed)
    counts = np.bincount(labels[drawn], minlength=len(sizes))
    assert len(np.unique(drawn)) == len(drawn) == count
    assert (counts <= sizes).all() and ((counts > 0) == (np.array(sizes) > 0)).all()
    if count < len(labels):
        more = set(draw_labeled(str(count + 1), labels, NAMES, seed))
        assert set(drawn) < more


def test_seeds_and_nested_draws():
    labels = labels_of(50, 50)
    few, more = (set(draw_labeled(spec, labels, NAMES, 1)) for spec in ("4/class", "9/class"))
    assert few < more
    assert few != set(draw_labeled("4/class", labels, NAMES, 2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("6/class", "the class 'b' has only 5 training images: ask for at most 5/class"),
        ("0/class", "must be at least 1/class"),
        ("1", "asks for 1 of 14 training images of 2 classes"),
        ("15", "asks for 15 of 14 training images"),
        ("200%", "asks for 28 of 14"),
        ("a few", "must be a number per class, such as 25/class"),
        ("-3", "must be a number per class"),
        ("0.5", "must be a number per class"),
    ],
)
def test_what_cannot_be_drawn(spec, message):
    with pytest.raises(UserError, match=message):
        draw_labeled(spec, labels_of(9, 5), NAMES, 0)
