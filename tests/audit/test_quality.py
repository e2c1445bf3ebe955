"""Broken, blank, tiny, long and blurred images, misspelled classes, and class balance."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.audit.planting import HOSTILE, encode
from tests.audit.test_scan import open_images
from vision.audit import quality
from vision.audit.images import Images
from vision.audit.scan import scan
from vision.config import default
from vision.data.sources import open_splits
from vision.data.splits import Subset


@pytest.fixture(scope="module")
def issues(audited):
    """{kind: {name of the file: line of issues.csv}}."""
    lines_by_kind = {}
    with open(audited / "issues.csv") as file:
        for row in csv.DictReader(file):
            lines_by_kind.setdefault(row["kind"], {})[Path(row["file"]).name] = row
    return lines_by_kind


def test_what_is_planted_is_found(issues):
    assert set(issues["unreadable"]) == {"empty.jpg", "cut.jpg"}
    assert "Premature end" in issues["unreadable"]["cut.jpg"]["suggestion"]
    assert set(issues["blank"]) == {"blank.png"} and set(issues["tiny"]) == set(
        issues["odd_aspect"]
    ) == {HOSTILE}
    assert "blurred.jpg" in issues["blurred"] and len(issues["blurred"]) <= 3
    assert float(issues["odd_aspect"][HOSTILE]["score"]) == 7.5
    assert (
        issues["spelling"]["misspelled.png"]["action"] == "relabel:scratches"
        and len(issues["spelling"]) == 1
    )
    actions = {kind: {row["action"] for row in rows.values()} for kind, rows in issues.items()}
    assert actions["unreadable"] == actions["blank"] == {"drop"} and actions["blurred"] == actions[
        "tiny"
    ] == {""}


def test_data_that_are_small_throughout_are_not_tiny():
    images = Images({"train": Subset(open_splits("digits")["all"], range(300))})  # 8 x 8 pixels
    issues = quality.find_quality_issues(images, scan(images), default().audit)
    assert "tiny" not in {issue.kind for issue in issues}


def test_balance_counts_the_labels(audited, planted):
    balance = json.loads((audited / "audit.json").read_text())["balance"]
    for split, counts in balance["counts"].items():
        for label, n in counts.items():
            folder = planted.root / split / label
            assert n == len(list(folder.iterdir())) if folder.is_dir() else n == 0
    train = balance["counts"]["train"]
    assert balance["ratio"] == max(train.values()) / min(train.values())
    assert balance["absent"] == [["Scratches", "val"], ["Scratches", "test"]]


def test_the_commonest_spelling_wins_in_every_split(tmp_path):
    rng = np.random.default_rng(0)
    for label, n in (("Hot dog", 12), ("hot  Dog", 30), ("cat", 20)):
        (tmp_path / label).mkdir()
        for i in range(n):
            image = rng.integers(0, 255, (24, 24), dtype=np.uint8)
            (tmp_path / label / f"{i}.png").write_bytes(encode(image, "PNG"))
    images = open_images(f"folder:{tmp_path}")
    issues = quality.find_misspelled_classes(images)
    assert {images.class_of(issue.row) for issue in issues} == {"Hot dog"} and len(issues) == 12
    assert {issue.action for issue in issues} == {"relabel:hot  Dog"}
