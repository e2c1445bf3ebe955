"""What is odd about data is named and counted before anything is trained."""

import cv2
import numpy as np
import pytest

from vision import parallel
from vision.config import default
from vision.data.findings import Finding, summarize
from vision.data.pipeline import named_splits, open_data
from vision.errors import UserError


def write_images(root, layout):
    """Writes {"train/cat": count}: images of 8 x 8."""
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(root / folder / f"{i}.png"), np.full((8, 8, 3), i, np.uint8))


def config(source, **changes):
    c = default()
    c.data.source = source
    c.data.update(changes)
    return c


def test_a_class_that_train_has_not(tmp_path):
    write_images(
        tmp_path,
        {"train/cat": 8, "train/dog": 8, "test/cat": 2, "test/owl": 3, "val/cat": 1, "val/emu": 1},
    )
    splits, findings = named_splits(config(f"folder:{tmp_path}").data, 0)
    assert splits["train"].classes == ("cat", "dog", "emu", "owl")  # the head has a place for each
    assert [str(finding) for finding in findings] == ["emu: 1 image", "owl: 3 images"]
    assert summarize(findings) == [
        "classes are in val but not in train: emu: 1 image",
        "classes are in test but not in train: owl: 3 images",
    ]
    assert open_data(config(f"folder:{tmp_path}"), parallel.make_mesh(1)).findings == findings


def test_what_was_lost_counts_as_unreadable(tmp_path):
    """A table that names a file which is not there: counted, and an error where it is too much."""
    write_images(tmp_path, {"cat": 10, "dog": 10})
    rows = [f"{name}/{i}.png,{name}" for name in ("cat", "dog") for i in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows, "dog/gone.png,dog"]) + "\n")
    c = config(f"csv:{tmp_path / 't.csv'}", max_unreadable=0.1)
    data = open_data(c, parallel.make_mesh(1))
    assert [str(tmp_path / "dog/gone.png")] == list(data.unreadable) and sum(
        map(len, data.loaders.values())
    ) == 20
    assert summarize(data.findings)[0].startswith("files named in the table do not exist: ")
    c.data.max_unreadable = 0.01
    with pytest.raises(UserError, match="gone.png"):
        open_data(c, parallel.make_mesh(1))


def test_many_findings_of_a_kind_are_one_line():
    findings = [Finding("boxes are empty", f"{i}.xml") for i in range(1234)] + [
        Finding("files are missing", "a", "gone")
    ]
    assert summarize(findings) == [
        "1,234 boxes are empty: 0.xml, 1.xml, 2.xml, ...",
        "files are missing: a: gone",
    ]
