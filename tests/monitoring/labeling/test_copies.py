"""Copies of kept images: equal ones, re-encoded and cropped ones, and none among other pictures."""

import types

import cv2
import numpy as np
import pytest

from vision.monitoring.labeling.choice import Quota
from vision.monitoring.labeling.collecting import select
from vision.monitoring.labeling.collection import name_of
from vision.monitoring.labeling.copies import Pictures, find_copies
from vision.monitoring.labeling.earlier import Earlier
from vision.monitoring.labeling.reasons import NONE, REASONS


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
    readable, copies = find_copies(Pictures(files))
    assert np.flatnonzero(~readable).tolist() == [17]
    pairs = {(a, b) for a, others in copies.items() for b in others}
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
        return select(scores, *given, Pictures(files), limits, earlier=earlier)

    assert set(chosen(Earlier())[0]) <= {0, 1, 2, 3}
    places, left_out = chosen(Earlier(names=frozenset(["other"]), files=old))
    assert len(places) == 2 and min(places) >= 4 and left_out == 4
    # the collection's images were deleted: the same bytes are still known
    names = frozenset([name_of(files[0].read_bytes()), name_of(files[3].read_bytes())])
    places, left_out = chosen(Earlier(names=names))
    assert set(places) <= {1, 2, 4, 5} and left_out == 2


def test_few_images_and_none(files):
    assert find_copies(Pictures(files[:1]))[1].get(0, set()) == set()
    readable, copies = find_copies(Pictures([]))
    assert len(readable) == 0 and copies == {}
