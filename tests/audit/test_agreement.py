"""Agreement of annotators, against the textbooks' tables."""

import csv

import numpy as np
import pytest

from vision.audit.agreement import Ratings, measure, read, sample, write_review
from vision.audit.images import Images
from vision.data.sources import open_splits
from vision.data.splits import make_splits
from vision.errors import UserError

# Ten subjects, fourteen raters, five categories: the worked example for Fleiss 1971, kappa 0.210.
FLEISS = [
    *(
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
    ),
    *([3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
]


def write(path, text):
    path.write_text(text)
    return path


def test_cohen(tmp_path):
    """Two readers of 50 proposals: both yes 20, both no 15; observed 0.7, by chance 0.5: 0.4."""
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    lines = [
        f"{i}.jpg,{label},{who}"
        for i, pair in enumerate(pairs)
        for label, who in zip(pair, "ab", strict=True)
    ]
    agreement = measure(
        read(write(tmp_path / "long.csv", "path,label,annotator\n" + "\n".join(lines)))
    )
    assert agreement["cohen"] == [{"a": "a", "b": "b", "kappa": pytest.approx(0.4), "images": 50}]
    assert (
        agreement["annotators"] == ["a", "b"]
        and agreement["images"] == 50
        and len(agreement["disagreements"]) == 15
    )
    assert agreement["disagreements"][0] == {"image": "20.jpg", "labels": {"a": "yes", "b": "no"}}
    wide = "path,annotator_a,annotator_b\n" + "\n".join(
        f"{i}.jpg,{a},{b}" for i, (a, b) in enumerate(pairs)
    )
    assert measure(read(write(tmp_path / "wide.csv", wide))) == agreement


def test_fleiss():
    votes = {}
    for subject, row in enumerate(FLEISS):
        labels = [str(category) for category, n in enumerate(row) for _ in range(n)]
        votes[f"{subject}"] = {f"rater{i}": label for i, label in enumerate(labels)}
    # another number of raters: not in the kappa
    votes["seen by two"] = {"rater0": "0", "rater1": "1"}
    agreement = measure(Ratings(tuple(f"rater{i}" for i in range(14)), votes))
    assert agreement["fleiss"] == pytest.approx(0.210, abs=5e-4)
    assert (agreement["fleiss_images"], agreement["fleiss_raters"], agreement["images"]) == (
        10,
        14,
        11,
    )


def test_what_is_undefined_is_none():
    agreement = measure(
        Ratings(
            ("a", "b", "c"), {"1": {"a": "x", "b": "x"}, "2": {"a": "x", "b": "x"}, "3": {"c": "y"}}
        )
    )
    assert [pair["kappa"] for pair in agreement["cohen"]] == [None] * 3
    assert [pair["images"] for pair in agreement["cohen"]] == [2, 0, 0]
    assert agreement["fleiss"] is None and agreement["disagreements"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na,b\n", "takes path, label and annotator"),
        ("path,label,annotator\na,b,anna\n", "labels of 1 annotator"),
        ("path,label,annotator\na,b,anna\na,c,anna\n", "line 3: anna gives a a second label, 'c'"),
        ("path,label,annotator\na,b,\n", "line 2 names no annotator"),
        ("path,annotator_a,annotator_b\n,x,y\n", "line 2 names no image"),
    ],
)
def test_tables_that_will_not_do(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "t.csv", text))


def test_a_review_comes_back(tmp_path):
    opened = open_splits("digits")
    images = Images(make_splits(opened), opened, "digits")
    rows = sample(images, 0.1, 0)
    assert np.array_equal(rows, sample(images, 0.1, 0)) and not np.array_equal(
        rows, sample(images, 0.1, 1)
    )
    counts = np.bincount(images.labels[rows])
    all_counts = np.bincount(images.labels)
    assert (np.abs(counts - 0.1 * all_counts) <= 0.5).all()
    assert np.bincount(images.labels[sample(images, 0.0, 0)]).tolist() == [1] * 10
    path = tmp_path / "review.csv"
    write_review(path, images, rows)
    with pytest.raises(UserError, match="labels of 1 annotator"):  # nobody has filled it in yet
        read(path)
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    for i, row in enumerate(table):
        row["annotator_review"] = "9" if i < 5 else row["annotator_data"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    agreement = measure(read(path))
    assert agreement["annotators"] == ["data", "review"] and agreement["images"] == len(rows)
    assert len(agreement["disagreements"]) == sum(row["annotator_data"] != "9" for row in table[:5])
    first = table[0]
    label = open_splits(first["source"])[first["part"]].labels[int(first["index"])]
    assert first["annotator_data"] == str(label)
