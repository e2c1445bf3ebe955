"""Copies of kept images: equal ones, re-encoded and cropped ones, and none among other pictures."""

import cv2
import numpy as np
import pytest

from vision.monitoring.labeling.copies import Pictures, find_copies


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


def test_few_images_and_none(files):
    assert find_copies(Pictures(files[:1]))[1].get(0, set()) == set()
    readable, copies = find_copies(Pictures([]))
    assert len(readable) == 0 and copies == {}
