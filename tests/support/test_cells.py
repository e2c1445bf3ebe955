"""Cells that a spreadsheet would compute are text, and come back as they were."""

import csv
import io

import pytest

from vision.data.sources import open_splits
from vision.support.cells import Writer, neutral, plain


@pytest.mark.parametrize(
    "text",
    ["=1+1", "@SUM(A1)", "+a", "-a", "\tx", "'=1", "''=1", "'quoted'", "plain", "", "=", "-", "-5"],
)
def test_texts_come_back(text):
    assert plain(neutral(text)) == text
    assert neutral(text)[:1] not in tuple("=@+\t") and not neutral(text).startswith("-a")


def test_numbers_stay_numbers():
    assert [neutral(text) for text in ("-5", "+1.5e-3", "-.5")] == ["-5", "+1.5e-3", "-.5"]
    stream = io.StringIO()
    Writer(stream).writerow(["=a", -5, "b"])
    assert next(csv.reader(io.StringIO(stream.getvalue()))) == ["'=a", "-5", "b"]


def test_a_source_reads_the_names_back(tmp_path):
    import cv2
    import numpy as np

    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((8, 8), np.uint8))
    with open(tmp_path / "t.csv", "w", newline="") as file:
        writer = Writer(file)
        for row in (("path", "label"), ("a.png", "=cmd|' /C calc'!A1"), ("b.png", "-1")):
            writer.writerow(row)
    assert open_splits(f"csv:{tmp_path / 't.csv'}")["all"].classes == ("-1", "=cmd|' /C calc'!A1")
