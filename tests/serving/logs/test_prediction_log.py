"""The log of predictions: what pandas reads back, when files are written, and that one is whole or
not there."""

import dataclasses
import hashlib
import threading
import time
import weakref

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from vision.errors import UserError
from vision.reference.sketch import SKETCH, sketch
from vision.serving.logs import prediction_log
from vision.serving.logs.prediction_log import PredictionLog
from vision.serving.request import Answer, Request

CLASSES = ("cat", "dog", "owl")


def answer(count=1, size=40, version="1", seed=0):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(3), count).astype(np.float32)
    embedding = random.normal(size=(count, size)).astype(np.float32)
    return Answer("pets", version, CLASSES, probabilities, embedding, {})


def request(images=(b"a",), name="r1"):
    return Request("pets", list(images) if isinstance(images, tuple) else images, id=name)


def log(directory, rows=100, seconds=60.0, **options):
    return PredictionLog(directory, rows, seconds, **options)


def files(directory):
    return sorted(path.name for path in directory.iterdir())


def test_pandas_reads_what_was_answered(tmp_path):
    written = log(tmp_path)
    first = answer(2)
    second = answer(1, size=7, version="2", seed=1)
    before = time.time()
    written.put(request((b"a", b"b")), first, shadow=False)
    written.put(request(name="r2"), second, shadow=True)
    written.write(everything=True)
    rows = pd.read_parquet(tmp_path)
    best = np.concatenate([first.probabilities, second.probabilities])
    assert rows["id"].tolist() == ["r1", "r1", "r2"]
    assert rows["image"].tolist() == [0, 1, 0]
    assert rows["model"].unique().tolist() == ["pets"] and rows["version"].tolist() == [
        "1",
        "1",
        "2",
    ]
    assert rows["shadow"].tolist() == [False, False, True]
    assert rows["class"].tolist() == [CLASSES[i] for i in best.argmax(1)]
    assert np.array_equal(rows["confidence"], best.max(1))
    assert np.array_equal(np.stack(rows["sketch"][:2]), sketch(first.embedding))
    assert np.array_equal(np.stack(rows["sketch"][2:]), sketch(second.embedding))
    assert rows["sha256"].isna().all()
    assert str(rows["time"].dt.tz) == "UTC"
    assert np.all(np.abs(rows["time"].map(lambda t: t.timestamp()) - before) < 10)


def test_the_file_names_its_kinds(tmp_path):
    written = log(tmp_path)
    written.put(request(), answer(), shadow=False)
    written.write(everything=True)
    metadata = pyarrow.parquet.read_schema(next(tmp_path.iterdir())).metadata
    assert metadata[b"vision_predictions"] == b"2" and metadata[b"sketch"] == SKETCH.encode()


def test_files_have_as_many_rows_as_they_may(tmp_path):
    written = log(tmp_path, rows=10)
    for i in range(9):
        written.put(request((b"a", b"b", b"c")), answer(3, seed=i), shadow=False)
    written.write()
    assert [len(pd.read_parquet(tmp_path / name)) for name in files(tmp_path)] == [10, 10]
    written.write()
    assert len(files(tmp_path)) == 2  # the others wait
    written.write(everything=True)
    rows = pd.concat([pd.read_parquet(tmp_path / name) for name in files(tmp_path)])
    expected = np.concatenate([answer(3, seed=i).probabilities.max(1) for i in range(9)])
    assert np.array_equal(rows["confidence"], expected)  # none lost, none twice, in their order


def test_rows_that_wait_long_enough_are_written(tmp_path):
    written = log(tmp_path, seconds=0.05)
    written.put(request(), answer(), shadow=False)
    written.write()
    assert files(tmp_path) == []
    time.sleep(0.06)
    written.write()
    assert len(pd.read_parquet(tmp_path)) == 1


def test_nothing_to_write_writes_no_file(tmp_path):
    log(tmp_path).write(everything=True)
    assert files(tmp_path) == []


def test_only_the_latest_files_are_kept(tmp_path):
    written = log(tmp_path, rows=1, files=3)
    for i in range(5):
        written.put(request(name=f"r{i}"), answer(), shadow=False)
    written.write()
    assert pd.read_parquet(tmp_path)["id"].tolist() == ["r2", "r3", "r4"]


def test_files_of_a_clock_that_was_ahead_cost_none_of_now(tmp_path):
    ahead = [f"predictions-99990101T00000{i}.000000Z-7-000000.parquet" for i in range(3)]
    for name in ahead:
        (tmp_path / name).touch()
    written = log(tmp_path, rows=1, files=3)
    for i in range(5):
        written.put(request(name=f"r{i}"), answer(), shadow=False)
    written.write()
    assert files(tmp_path)[3:] == ahead
    assert [pd.read_parquet(tmp_path / name)["id"][0] for name in files(tmp_path)[:3]] == [
        "r2",
        "r3",
        "r4",
    ]


def test_hashes_are_of_the_image_as_it_came(tmp_path):
    written = log(tmp_path, hashes=True)
    pixels = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    written.put(request((b"photo",)), answer(), shadow=False)
    written.put(request(pixels), answer(2), shadow=False)
    written.write(everything=True)
    expected = [b"photo", pixels[0].tobytes(), pixels[1].tobytes()]
    assert pd.read_parquet(tmp_path)["sha256"].tolist() == [
        hashlib.sha256(data).hexdigest() for data in expected
    ]


def test_images_that_wait_to_be_hashed_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_log, "IMAGES", 10)
    written = log(tmp_path, hashes=True)
    for _ in range(3):
        written.put(request((b"12345678",)), answer(), shadow=False)
    written.write()
    written.put(request((b"1",)), answer(), shadow=False)  # there is room again
    written.write(everything=True)
    assert pd.read_parquet(tmp_path)["sha256"].notna().tolist() == [True, True, False, True]


def test_a_file_that_cannot_be_written_is_lost_alone(tmp_path, monkeypatch):
    written = log(tmp_path, rows=2)
    with monkeypatch.context() as patch:
        patch.setattr(
            prediction_log.os,
            "replace",
            lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")),
        )
        written.put(request((b"a", b"b")), answer(2), shadow=False)
        with pytest.raises(OSError, match="No space left"):
            written.write()
    assert files(tmp_path) == [] and written.lost == 2
    written.put(request((b"a", b"b"), name="later"), answer(2), shadow=False)
    written.write()
    assert pd.read_parquet(tmp_path)["id"].tolist() == ["later", "later"]


def test_a_row_that_is_no_text_is_lost_alone(tmp_path):
    written = log(tmp_path)
    written.put(request(name="\ud800"), answer(), shadow=False)
    with pytest.raises(UnicodeEncodeError):
        written.write()
    written.put(request(name="good"), answer(), shadow=False)
    written.write(everything=True)
    assert pd.read_parquet(tmp_path)["id"].tolist() == ["good"] and written.lost == 1


def test_what_the_disk_cannot_keep_up_with_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_log, "WAITING", 2 * (prediction_log.OBJECTS + 3 * (3 + 40) * 4))
    written = log(tmp_path)
    for _ in range(5):
        written.put(request((b"a", b"b", b"c")), answer(3), shadow=False)
    assert written.lost == 9 and len(written._waiting) == 2
    written.write()
    written.put(request(), answer(), shadow=False)  # there is room again
    written.write(everything=True)
    assert written.lost == 9 and len(pd.read_parquet(tmp_path)) == 7


def test_a_disk_that_hangs_costs_little_memory(tmp_path, monkeypatch):
    """What waits for it has no heat maps, and what is a row already keeps nothing of its answer."""
    monkeypatch.setattr(prediction_log, "WAITING", 2**20)
    stuck = threading.Event()
    go = threading.Event()
    alive = []

    def hang(file):
        stuck.set()
        go.wait(10)

    written = log(tmp_path, rows=1)
    monkeypatch.setattr(prediction_log.os, "fsync", hang)
    thread = threading.Thread(target=written.write, kwargs={"everything": True})
    for i in range(200):
        heated = dataclasses.replace(answer(8, size=512), heat=np.zeros((8, 64, 64), np.float32))
        alive += [(weakref.ref(heated.embedding), weakref.ref(heated.heat))]
        written.put(request(), heated, shadow=False)
        del heated
        if i == 9:
            thread.start()
            assert stuck.wait(5)
            assert not any(reference() is not None for pair in alive for reference in pair)
    kept = sum(embedding() is not None for embedding, _ in alive)
    assert kept * 8 * 512 * 4 < 1.1 * 2**20 and written.lost == (190 - kept) * 8
    assert not any(heat() is not None for _, heat in alive)
    go.set()
    thread.join(10)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--prediction-log"):
        log(tmp_path / "file" / "log")


def test_readers_pass_over_a_file_that_was_left_behind(tmp_path):
    written = log(tmp_path)
    written.put(request(), answer(), shadow=False)
    written.write(everything=True)
    (tmp_path / ".predictions-20260101T000000.000000Z-1-000000.parquet.tmp").write_bytes(
        b"PAR1 half"
    )
    assert len(pd.read_parquet(tmp_path)) == 1


def test_the_sketch_never_changes():
    """Files of different years are compared by it; the numbers are those of the first version."""
    sketches = sketch(np.eye(3, dtype=np.float32))
    assert sketches.dtype == np.float16 and np.array_equal(np.abs(sketches), np.full((3, 16), 0.25))
    signs = ["".join("+" if value > 0 else "-" for value in row) for row in sketches]
    bits = hashlib.shake_256(b"sign/16/1/3").digest(6)
    assert signs == [
        f"{int.from_bytes(bits[i : i + 2]):016b}".replace("1", "+").replace("0", "-")
        for i in (0, 2, 4)
    ]


def test_the_sketch_keeps_squared_distances_on_average():
    random = np.random.default_rng(0)
    points = random.normal(size=(400, 512)).astype(np.float32)
    before = np.square(points[:200] - points[200:]).sum(1)
    after = np.square((sketch(points[:200]) - sketch(points[200:])).astype(np.float64)).sum(1)
    # the standard error is sqrt(2 / 16 / 200) = 0.025
    assert abs(np.mean(after / before) - 1) < 0.08


def test_the_sketch_is_finite_and_linear():
    huge = np.full((1, 2048), 1e6, np.float32)
    assert np.isfinite(sketch(huge)).all()
    random = np.random.default_rng(1)
    points = random.normal(size=(1000, 64)).astype(np.float32)
    assert np.allclose(
        sketch(points).astype(np.float64).mean(0), sketch(points.mean(0)[None])[0], atol=2e-3
    )
