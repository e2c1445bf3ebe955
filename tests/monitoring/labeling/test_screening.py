"""Copies of kept images: equal ones, re-encoded and cropped ones, and none among other pictures;
and what is drawn at random without them."""

import types

import cv2
import numpy as np
import pytest

from vision.monitoring.labeling import screening as screened
from vision.monitoring.labeling.choice import Quota
from vision.monitoring.labeling.collecting import select
from vision.monitoring.labeling.collection import name_of
from vision.monitoring.labeling.earlier import Earlier
from vision.monitoring.labeling.reasons import NONE, REASONS
from vision.monitoring.labeling.screening import Pictures, Screening, draw


@pytest.fixture
def files(tmp_path):
    """Twelve pictures; then one again, one as JPEG, one cropped, two blank and one damaged."""
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(12):
        noise = random.normal(size=(12, 12, 3)).astype(np.float32)
        large = cv2.resize(noise, (160, 160), interpolation=cv2.INTER_CUBIC)
        pictures.append(np.clip(128 + 60 * large, 0, 255).astype(np.uint8))
    pictures += [pictures[0], pictures[1], pictures[2][4:156, 4:156]]
    pictures += [np.zeros((60, 60, 3), np.uint8), np.ones((60, 60, 3), np.uint8)]
    paths = []
    for number, image in enumerate(pictures):
        kind = ".jpg" if number == 13 else ".png"
        path = tmp_path / f"{number}{kind}"
        cv2.imwrite(str(path), image)
        paths.append(path)
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return [*paths, tmp_path / "damaged.png"]


def test_copies_are_found_and_nothing_else(files):
    screening = Screening(Pictures(files))
    for rows in ([1, 12, 17], [0, 1], range(18)):  # copies of images that were looked at before
        screening.look(np.array(rows))
    assert np.flatnonzero(screening.is_unreadable).tolist() == [17]
    assert not screening.is_again.any()
    pairs = {(a, b) for a, others in screening.copies.items() for b in others}
    assert {tuple(sorted(pair)) for pair in pairs} == {(0, 12), (1, 13), (2, 14)}
    assert all((b, a) in pairs for a, b in pairs)


def test_copies_of_earlier_images_are_left_out(files):
    """They have the highest scores, so others are looked at only once those are left out."""
    old = files[:4]
    files = [*files[12:15], files[3], *files[4:12]]  # equal, re-encoded, cropped, the same file
    scores = dict.fromkeys(REASONS, np.full(len(files), NONE))
    scores["uncertain"] = np.arange(len(files))[::-1].astype(float)
    sketches = np.random.default_rng(1).random((len(files), 16))
    given = (np.zeros(len(files), int), sketches, types.SimpleNamespace(sample=sketches[:2]))

    def chosen(earlier):
        limits = Quota(2, 2, True)
        return select(scores, *given, Screening(Pictures(files), earlier), limits)

    assert set(chosen(Earlier())[0]) <= {0, 1, 2, 3}
    places, left_out = chosen(Earlier(names=frozenset(["other"]), files=old))
    assert len(places) == 2 and min(places) >= 4 and left_out == 4
    # the collection's images were deleted: the same bytes are still known
    names = frozenset([name_of(files[0].read_bytes()), name_of(files[3].read_bytes())])
    places, left_out = chosen(Earlier(names=names))
    assert set(places) <= {1, 2, 4, 5} and left_out == 2


@pytest.fixture
def hashed(monkeypatch):
    """The number of images whose pixels were hashed, as a list of so many."""
    calls = []

    def counting(image):
        calls.append(None)
        return digest(image)

    digest = screened.digest
    monkeypatch.setattr(screened, "digest", counting)
    return calls


def test_each_file_is_read_once(files, hashed):
    """Also in further passes, of which the last one has nothing left to look at."""
    scores = dict.fromkeys(REASONS, np.full(12, NONE))
    scores["uncertain"] = np.arange(12)[::-1].astype(float)
    earlier = Earlier(names=frozenset(["other"]), files=files[:9])
    screening = Screening(Pictures(files[:12]), earlier)
    sketches = np.random.default_rng(1).random((12, 16))
    given = (np.zeros(12, int), sketches, types.SimpleNamespace(sample=sketches[:2]))
    places, left_out = select(scores, *given, screening, Quota(2, 2, True))
    assert len(places) == 2 and min(places) >= 9 and left_out == 9
    assert len(hashed) == 12 + 9


def test_a_reason_without_further_images_asks_for_no_other_pass(files, hashed):
    """Of "disagree", the only image is a copy; of "uncertain", more are left than are wanted."""
    scores = dict.fromkeys(REASONS, np.full(12, NONE))
    scores["disagree"] = np.where(np.arange(12) == 0, 1.0, NONE)
    scores["uncertain"] = np.where(np.arange(12) > 0, 1.0 * np.arange(12), NONE)
    earlier = Earlier(names=frozenset(["other"]), files=files[:1])
    screening = Screening(Pictures(files[:12]), earlier)
    sketches = np.random.default_rng(1).random((12, 16))
    given = (np.zeros(12, int), sketches, types.SimpleNamespace(sample=sketches[:2]))
    places, left_out = select(scores, *given, screening, Quota(2, 2, True))
    assert set(places) <= {8, 9, 10, 11} and left_out == 1
    assert len(hashed) == 1 + 4 + 1  # twice as many as are wanted, and the earlier one


@pytest.mark.parametrize("seed", range(3))
def test_what_is_drawn_has_no_copies_and_is_as_many(files, seed):
    """Of 18 files, three are copies of others and one is damaged."""
    drawn = np.flatnonzero(draw(Screening(Pictures(files)), 14, seed) > NONE)
    assert len(drawn) == 14 and 17 not in drawn
    assert not any({a, a + 12} <= set(drawn) for a in range(3))
    assert (draw(Screening(Pictures(files)), 18, seed) > NONE).sum() == 14
    few = np.flatnonzero(draw(Screening(Pictures(files)), 4, seed) > NONE)
    assert len(few) == 4 and set(few) <= set(drawn)  # the first ones of the same order


def test_what_is_drawn_is_another_sample_with_another_seed(files):
    samples = [draw(Screening(Pictures(files)), 5, seed) for seed in (0, 0, 1)]
    assert np.array_equal(samples[0], samples[1]) and not np.array_equal(samples[0], samples[2])


def test_copies_of_earlier_images_are_not_drawn(files):
    """Equal, re-encoded, cropped, the same file, the same bytes as one that was deleted."""
    images = [*files[12:15], files[3], *files[4:12]]
    names = frozenset([name_of(files[11].read_bytes())])
    earlier = Earlier(names=names, files=files[:4])
    drawn = draw(Screening(Pictures(images), earlier), 6, 0)
    assert (drawn > NONE).sum() == 6 and np.isinf(drawn[[0, 1, 2, 3, 11]]).all()
    assert np.flatnonzero(draw(Screening(Pictures(images), earlier), 9, 0) > NONE).tolist() == [
        *range(4, 11)
    ]


def test_few_images_and_none(files):
    one = Screening(Pictures(files[:1]))
    one.look(np.array([0]))
    assert one.copies.get(0, set()) == set() and not one.is_out.any()
    none = Screening(Pictures([]))
    none.look(np.array([], int))
    assert none.copies == {} and len(draw(none, 3, 0)) == 0
