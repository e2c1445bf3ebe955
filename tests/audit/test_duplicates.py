"""Duplicates: the search against all pairs, and copies planted among real photographs."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.audit.planting import COPIES
from tests.audit.test_scan import open_images
from vision.audit import duplicates
from vision.audit.images import Images
from vision.audit.scan import scan
from vision.config import default
from vision.data.alike import hash_search
from vision.data.alike import pairs as alike
from vision.data.alike.hashes import CROPS
from vision.data.alike.overlay import likeness
from vision.data.sources import open_splits
from vision.data.splits import Subset


@pytest.fixture(scope="module")
def lines_by_file(audited):
    """{file: its line of issues.csv} of duplicates."""
    with open(audited / "issues.csv") as file:
        return {row["file"]: row for row in csv.DictReader(file) if row["kind"] in duplicates.KINDS}


def test_the_search_finds_what_comparing_all_finds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (600, len(CROPS))).astype(np.uint64)
    # the second half are the first, or crops of it, with some bits turned
    flips = rng.integers(1, 14, 300)
    for i, n in enumerate(flips):
        bits = sum(1 << int(b) for b in rng.choice(63, n, replace=False))
        hashes[300 + i, 0] = hashes[i, rng.integers(0, len(CROPS)) if n <= 7 else 0] ^ np.uint64(
            bits
        )
    distance = np.bitwise_count(hashes[:, :, None] ^ hashes[None, None, :, 0])
    near = distance <= np.array([11, 7, 7, 7, 7, 7])[None, :, None]
    a, _, b = np.nonzero(near)
    expected = {
        (min(i, j), max(i, j)) for i, j in zip(a.tolist(), b.tolist(), strict=True) if i != j
    }
    pairs = hash_search.candidates(hashes)
    assert {(min(i, j), max(i, j)) for i, j, _ in pairs.tolist()} == expected and len(pairs) == len(
        expected
    ) > 200
    assert all(near[i, crop, j] for i, j, crop in pairs.tolist())


def test_all_planted_copies_are_found_and_nothing_else(planted, lines_by_file):
    for kind, copies in (("duplicate", planted.exact), ("near_duplicate", planted.near)):
        for copy, original in copies.items():
            line = lines_by_file.get(copy) or lines_by_file.get(original)
            assert line and {line["file"], line["other"]} == {copy, original}, copy
            assert line["kind"] == kind and float(line["score"]) >= 0.9
    assert len(lines_by_file) == len(planted.exact) + len(planted.near)


def test_leaks_are_counted_apart_and_the_training_copy_goes(planted, lines_by_file, audited):
    across = [line for line in lines_by_file.values() if f"/{line['split']}/" not in line["other"]]
    assert (
        len(across) == json.loads((audited / "audit.json").read_text())["duplicates"]["leaks"] == 14
    )
    assert {line["split"] for line in across} == {"train"} and {
        line["action"] for line in lines_by_file.values()
    } == {"drop"}
    within = [line for line in lines_by_file.values() if line not in across]
    assert len(within) == 7
    for line in within:  # the larger picture stays, and of equal ones the first
        sizes = [np.prod(Image.open(line[column]).size) for column in ("file", "other")]
        assert sizes[0] < sizes[1] or (sizes[0] == sizes[1] and line["other"] < line["file"])


@pytest.mark.parametrize("copy", COPIES)
def test_likeness_tells_copies_from_others(photos, copy):
    pictures = [
        np.array(Image.open(io.BytesIO(data)).convert("RGB")) for _, data in photos["photo 0"][:4]
    ]
    crop = {"top": 1, "bottom": 2, "left": 3, "right": 4, "inner": 5}.get(copy, 0)
    for picture, other in zip(pictures, pictures[1:], strict=False):
        made = np.array(Image.open(io.BytesIO(COPIES[copy](picture))).convert("RGB"))
        assert likeness(picture, made, CROPS[crop]) > 0.95
        assert likeness(picture, other, CROPS[crop]) < 0.5


def test_likeness_sees_colors_but_not_that_they_are_missing():
    rng = np.random.default_rng(0)
    gray = np.repeat(np.repeat(rng.integers(60, 200, (8, 8), dtype=np.uint8), 8, 0), 8, 1)
    red, green = (np.zeros((64, 64, 3), np.uint8) for _ in range(2))
    red[..., 0] = gray
    green[..., 1] = gray
    assert likeness(red, red) > 0.99 and likeness(red, green) < 0.5
    assert likeness(np.repeat(gray[..., None], 3, 2), gray[..., None]) > 0.99


def test_digits_that_look_alike_are_no_duplicates():
    source = open_splits("mnist5k")["all"]
    # ones are most alike of all
    images = Images({"train": Subset(source, np.flatnonzero(source.labels == 1)[:100])})
    scanned = scan(images)
    pairs = hash_search.candidates(scanned.hashes)
    assert len(pairs) > 500
    result = duplicates.find_duplicates(images, scanned, default().audit)
    assert result.near > 0.95 and len(result.issues) <= 2


def test_the_threshold_rises_only_where_pairs_lie_just_below_it():
    rng = np.random.default_rng(0)
    copies = 1 - 0.03 * rng.random(50)
    assert alike.threshold([], 0.9) == alike.threshold(copies, 0.9) == 0.9
    assert alike.threshold([*copies, *(0.6 * rng.random(200))], 0.9) == 0.9
    lookalikes = 1 - rng.gamma(4, 0.03, 3000)
    raised = alike.threshold([*(1 - 0.003 * rng.random(300)), *lookalikes], 0.9)
    assert 0.95 < raised < 0.997 and np.mean(lookalikes >= raised) < 0.03


def test_same_pixels_with_other_labels_are_said(tmp_path, photos):
    for split, label, number in (
        ("train", "a", 0),
        ("train", "b", 0),
        ("test", "b", 1),
        ("val", "a", 2),
        ("train", "a", 3),
    ):
        path = tmp_path / split / label / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photos["photo 0"][number][1])
    images = open_images(f"folder:{tmp_path}")
    result = duplicates.find_duplicates(images, scan(images), default().audit)
    assert (
        result.conflicts == 1
        and result.leaks == 0
        and [len(group) for group in result.groups] == [2]
    )
    (issue,) = result.issues
    assert "the labels differ, 'b' here and 'a' there" in issue.suggestion
    assert Path(images.name(issue.other)).parent.name == "a"
