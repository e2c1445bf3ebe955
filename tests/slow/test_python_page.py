"""docs/python.md: its examples, from the first to the last, as a reader pastes them."""

import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "python.md").read_text()


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes of their own colors, and an image beside it."""
    random = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            image = random.integers(0, 128, (40, 50, 3), np.uint8)
            image[..., label] += 100
            cv2.imwrite(str(tmp_path / "photos" / name / f"{number}.jpg"), image)
    cv2.imwrite(str(tmp_path / "new.png"), random.integers(0, 256, (20, 20, 3), np.uint8))
    return tmp_path


def test_every_example_runs(photos):
    """In a directory of the reader's, in one process, in the order of the page."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == PAGE.count("```python")
    checks = """
assert result.report.is_file() and 0.5 < accuracy.low <= accuracy.value <= accuracy.high <= 1
assert len(three) == len(mixed) == 3 and len(predictions) == 40
assert bundle.is_bundle and imagenet.classes[0] == "tench"
print("the end")
"""
    (photos / "page.py").write_text("\n".join([*blocks, checks]))
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=photos,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""},  # on one device
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.endswith("there is no file or folder missing.png\nthe end\n")
