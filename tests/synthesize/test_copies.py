"""Which generated images are near a real one, against plain loops; which of them the page shows."""

import csv

import numpy as np
import pytest

from vision.synthesize.copies import COLUMNS, Matches, describe, find_pairs
from vision.synthesize.quality import Embedded
from vision.synthesize.report import choose_nearest

RNG = np.random.RandomState(0)
CLASSES = ("cat", "=dog")


def embedded(embeddings, rows=None, labels=None):
    count = len(embeddings)
    labels = np.zeros(count, np.int64) if labels is None else np.asarray(labels)
    return Embedded(
        np.asarray(embeddings, np.float32), labels, np.arange(count) if rows is None else rows
    )


REAL = embedded(RNG.randn(40, 3), np.arange(0, 80, 2))  # every second one is unreadable
MADE = embedded(RNG.randn(30, 3), labels=30 * [0])


class Folder:
    """Generated images whose pixels are their number."""

    files = [f"images/{number}.png" for number in range(30)]

    def __len__(self):
        return len(self.files)

    def image(self, index):
        return np.full((2, 2, 1), index, np.uint8)


class Split:
    """Real images: source and dataset in one."""

    labels = np.arange(80) // 2 % 2

    @property
    def source(self):
        return self

    def name(self, index):
        return f"photo {index}"

    def image(self, index):
        return np.full((2, 2, 1), 100 + index, np.uint8)


def distances_to(x, references):
    return [float(np.linalg.norm(np.float64(x) - np.float64(r))) for r in references]


def matches_of(made, real):
    return Matches(Folder(), made, Split(), real, find_pairs(made, real, "synthetic"), CLASSES)


def test_pairs_with_loops():
    pairs = find_pairs(MADE, REAL, "synthetic")
    for number, image in enumerate(MADE.embeddings):
        distances = distances_to(image, REAL.embeddings)
        place = int(np.argmin(distances))
        assert pairs.places[number] == place
        assert pairs.distances[number] == pytest.approx(distances[place])
        others = np.delete(REAL.embeddings, place, axis=0)
        nearest_other = min(distances_to(REAL.embeddings[place], others))
        assert pairs.real_distances[number] == pytest.approx(nearest_other)
        assert pairs.is_nearer[number] == (distances[place] < nearest_other)


def test_copies_are_nearer_than_other_real_images():
    copies = embedded(REAL.embeddings[:30] + 1e-4, labels=15 * [0] + 15 * [1])
    unseen = find_pairs(embedded(RNG.randn(25, 3)), REAL, "validation")
    summary = describe(find_pairs(copies, REAL, "synthetic"), copies.labels, unseen, CLASSES)
    assert summary["overall"]["nearer"] == 1 > summary["validation"]["nearer"]
    assert summary["overall"]["median"] < 0.001 < summary["overall"]["real_median"]
    assert summary["overall"]["images"] == 30 and summary["validation"]["images"] == 25
    assert {name: each["images"] for name, each in summary["classes"].items()} == dict.fromkeys(
        CLASSES, 15
    )


def test_a_single_real_image_has_no_other():
    pairs = find_pairs(MADE, REAL.take(np.array([0])), "synthetic")
    assert not pairs.places.any() and np.isinf(pairs.real_distances).all()
    assert describe(pairs, MADE.labels, pairs, CLASSES)["overall"]["real_median"] is None


def test_many_unseen_real_images_are_nearer():
    """The row of the validation split is not 0: that is what the others are compared with."""
    unseen = find_pairs(embedded(RNG.randn(200, 3)), REAL, "validation")
    summary = describe(find_pairs(MADE, REAL, "synthetic"), MADE.labels, unseen, CLASSES)
    share = summary["validation"]["nearer"]
    assert share == unseen.is_nearer.mean() and 0.2 < share < 0.8


def test_without_validation_images_there_is_nothing_to_compare_with():
    pairs = find_pairs(MADE, REAL, "synthetic")
    summary = describe(pairs, MADE.labels, None, CLASSES)
    assert summary["validation"] is None and summary["overall"]["images"] == 30


def test_the_table_has_every_image_the_nearest_first(tmp_path):
    made = MADE._replace(labels=np.arange(30) % 2)
    matches = matches_of(made, REAL)
    matches.write(tmp_path / "nearest.csv")
    with (tmp_path / "nearest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {row["path"] for row in rows} == set(Folder.files)
    distances = [float(row["distance"]) for row in rows]
    assert distances == sorted(distances) and len(set(distances)) == 30
    first = int(np.argmin(matches.pairs.distances))
    real_row = 2 * int(matches.pairs.places[first])
    assert rows[0]["path"] == f"images/{first}.png" and rows[0]["real"] == f"photo {real_row}"
    assert rows[0]["label"] == ("cat", "'=dog")[first % 2]  # text, in a spreadsheet
    assert rows[0]["real_label"] == ("cat", "'=dog")[real_row // 2 % 2]
    pixels = [int(image[0, 0, 0]) for image in matches.images(first)]
    assert pixels == [first, 100 + real_row]


def test_a_copy_that_was_drawn_often_does_not_hide_the_others():
    often = REAL.embeddings[[5] * 20] + 1e-4 * np.arange(20, 0, -1)[:, None]
    made = embedded(np.concatenate([often, REAL.embeddings[:3] + 0.02, MADE.embeddings[:7]]))
    chosen = choose_nearest(matches_of(made, REAL), np.arange(30), 4)
    assert chosen[0] == 19  # the nearest of the 20
    assert sorted(chosen[1:4]) == [20, 21, 22]
