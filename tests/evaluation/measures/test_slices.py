"""Slices of images by what they look like, where they lie and what a table says of them."""

import cv2
import numpy as np
import pytest
import sklearn.metrics

from vision.data.sources import open_splits
from vision.data.splits import Joined, make_splits
from vision.evaluation.measures import slices
from vision.evaluation.outputs import Outputs


def outputs_of(source, brightness=None):
    size = len(source)
    grey = np.linspace(0, 1, size) if brightness is None else brightness
    empty = np.zeros((0, 2), np.float32)
    logits = np.eye(len(source.classes), dtype=np.float32)[source.labels]
    return Outputs(
        logits,
        source.labels.astype(int),
        np.arange(size),
        grey,
        np.ones(size),
        empty,
        np.zeros(0, int),
    )


@pytest.fixture
def table(tmp_path):
    """A table of images from two sites, with a camera, an age and a free text; every image of
    camera b is larger."""
    lines = ["path,label,site,camera,age,note"]
    for i in range(80):
        site = ("north", "south")[i % 2]
        label = ("cat", "dog")[i // 2 % 2]
        camera = "ab"[i // 40]
        file = tmp_path / site / label / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full((8 + 8 * (camera == "b"), 30, 3), i, np.uint8))
        lines.append(f"{file.relative_to(tmp_path)},{label},{site},{camera},{i / 3},note {i}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return open_splits(f"csv:{tmp_path}/table.csv")["all"]


def test_each_division_is_found_and_the_worst_comes_first(table):
    outputs = outputs_of(table)
    correct = np.array([camera == "a" for camera in table.columns["camera"]])
    measured = slices.measure(outputs, table, np.where(correct, 0.1, 3.0), correct, 10)
    by = {}
    for part in measured:
        by.setdefault(part["by"], []).append(part)
    assert {
        "size",
        "brightness",
        "folder, level 1",
        "column site",
        "column camera",
        "column age",
    } == set(by) - {"contrast"}
    # The second level of folders is the class, a column of as many texts as images divides nothing.
    assert len(by["folder, level 1"]) == 2 and len(by["size"]) == 2 and len(by["column age"]) == 4
    assert (
        measured[0]["accuracy"]["value"] == 0
        and measured[0]["images"] == 40
        and measured[0]["nll"] == pytest.approx(3)
    )
    highs = [part["accuracy"]["high"] for part in measured]
    assert highs == sorted(highs)
    for part in by["column site"]:
        chosen = np.array(table.columns["site"]) == part["slice"]
        assert part["accuracy"]["value"] == sklearn.metrics.accuracy_score(
            np.ones(40), correct[chosen]
        )
    assert not slices.measure(outputs, table, np.zeros(80), correct, 41)


def test_columns_are_found_through_divisions(table):
    splits = make_splits({"all": table})
    joined = Joined([splits["train"], splits["test"]])
    for source in (splits["train"], joined):
        rows = np.arange(len(source))[::3]
        names = [source.name(int(row)) for row in rows]
        sites = slices.columns_of(source, rows)["site"]
        assert [f"/{site}/" in name for site, name in zip(sites, names, strict=True)] == [
            True
        ] * len(rows)


def test_equal_and_missing_numbers():
    assert slices.quarters([1.0, 1.0, 1.0])[0] == ["1.00 to 1.00"]
    names, place = slices.quarters([np.nan, 1, 2, 3, 4])
    assert place[0] == -1 and len(names) == 4 and place[1:].tolist() == [0, 1, 2, 3]
    assert slices.quarters([np.nan, np.nan]) == ([], pytest.approx([-1, -1]))
    names, place = slices.quarters([0, 0, 0, 0, 0, 0, 7.0])
    assert names == ["0.00 to 0.00", "7.00 to 7.00"] or names == ["0.00 to 7.00"]


def test_arrays_have_no_folders():
    source = open_splits("digits")["all"]
    divisions = slices.groups(outputs_of(source), source)
    assert set(divisions) == {"brightness", "contrast", "size"} and len(divisions["size"][0]) == 1
