"""All of CIFAR-10 as a prepared TFDS data set: every image and label, read without TensorFlow."""

import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision.data.sources import open_splits
from vision.data.splits import make_splits

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    if not (DATA / "make_tfds_cifar10.py").exists():
        pytest.skip(f"needs {DATA}/make_tfds_cifar10.py and its parquet files")
    folder = tmp_path_factory.mktemp("tfds")
    subprocess.run(
        [sys.executable, str(DATA / "make_tfds_cifar10.py"), str(folder)],
        check=True,
        capture_output=True,
    )
    return folder


def test_cifar10(data_dir, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    started = time.monotonic()
    splits = open_splits("tfds:cifar10")
    assert time.monotonic() - started < 20  # 1 s on two idle cores
    assert np.bincount(splits["train"].labels).tolist() == [5000] * 10
    assert np.bincount(splits["test"].labels).tolist() == [1000] * 10
    for name, split in splits.items():
        table = parquet.read_table(DATA / f"cifar10-{name}.parquet")
        expected = sorted(
            (np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).tobytes(), label)
            for jpeg, label in zip(
                table["image"].to_pylist(), table["label"].to_pylist(), strict=True
            )
        )
        assert sorted((e["image"].tobytes(), e["label"]) for e in split) == expected
    divided = make_splits(splits)
    assert (
        np.bincount(divided["val"].labels).tolist() == [500] * 10
        and divided["test"] is splits["test"]
    )
