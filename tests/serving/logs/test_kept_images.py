"""Images that are kept: which, where, how many, how long."""

import io
import os
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vision.serving.logs.kept_images import KeepRules, KeptImages
from vision.serving.logs.prediction_log import PredictionLog
from vision.serving.request import Answer, Request


def encoded(kind="PNG", value=3):
    file = io.BytesIO()
    Image.new("L", (9, 7), value).save(file, kind)
    return file.getvalue()


def files(directory):
    return sorted(path for path in (directory / "_images").rglob("*") if path.is_file())


def keep(kept, number=0, label="cat", seconds=None, image=None):
    moment = time.time() if seconds is None else seconds
    return kept.keep("pets", label, (moment, f"r{number}", 0), image or encoded(value=number))


def test_an_image_is_kept_as_it_came(tmp_path):
    kept = KeptImages(tmp_path, KeepRules(1.0))
    for kind, suffix in (("PNG", ".png"), ("JPEG", ".jpg"), ("BMP", ".bmp"), ("WEBP", ".webp")):
        data = encoded(kind)
        name = keep(kept, image=data)
        assert name.endswith(suffix) and (tmp_path / "_images" / name).read_bytes() == data
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    name = kept.keep("pets", "cat", (0.0, "p", 1), pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "_images" / name)), pixels)
    gray = kept.keep("pets", "cat", (0.0, "p", 2), pixels[..., :1])
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "_images" / gray)), pixels[..., 0]
    )


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", "", "\0", "ü" * 300, "\ud800"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    kept = KeptImages(tmp_path / "log", KeepRules(1.0))
    path = kept.keep(name, name, (0.0, name, 0), encoded())
    assert kept.failed == 0 and path is not None
    assert [
        file.relative_to(tmp_path / "log" / "_images").as_posix()
        for file in files(tmp_path / "log")
    ] == [path]
    assert os.listdir(tmp_path) == ["log"]


def test_a_class_has_a_quota_and_the_latest_stay(tmp_path):
    kept = KeptImages(tmp_path, KeepRules(1.0, per_class=3))
    names = [keep(kept, number, seconds=1000.0 + number) for number in range(5)]
    other = keep(kept, 9, "dog")
    assert {path.name for path in files(tmp_path)} == {
        name.rpartition("/")[2] for name in [*names[2:], other]
    }


def test_all_have_a_bound_in_bytes(tmp_path):
    size = len(encoded())
    kept = KeptImages(tmp_path, KeepRules(1.0, bytes=3 * size))
    for number in range(6):
        keep(kept, number, f"class {number % 4}", 1000.0 + number)
    left = files(tmp_path)
    assert len(left) == 3 and sum(path.stat().st_size for path in left) <= 3 * size
    assert [name[-7:-6] for name in sorted(path.name for path in left)] == ["3", "4", "5"]


def test_old_ones_are_deleted_also_those_of_before_a_restart(tmp_path):
    kept = KeptImages(tmp_path, KeepRules(1.0))
    old, new = keep(kept, 1), keep(kept, 2)
    os.utime(tmp_path / "_images" / old, (1000, 1000))
    again = KeptImages(tmp_path, KeepRules(1.0, seconds=3600))
    assert len(files(tmp_path)) == 2
    again.sweep()
    assert [path.name for path in files(tmp_path)] == [new.rpartition("/")[2]]


def test_a_disk_that_refuses_costs_the_image_alone(tmp_path):
    kept = KeptImages(tmp_path, KeepRules(1.0))
    (tmp_path / "_images").write_text("in the way")
    assert keep(kept) is None and kept.failed == 1


def answer(count, classes=("cat", "dog")):
    probabilities = np.tile(np.float32([0.3, 0.7]), (count, 1))
    return Answer("pets", "1", classes, probabilities, np.zeros((count, 4), np.float32), {})


def test_the_log_names_what_was_kept_and_is_read_as_before(tmp_path):
    log = PredictionLog(tmp_path, 1000, 60.0, keep=KeepRules(0.2))
    for number in range(100):
        images = [encoded(value=number), encoded(value=number + 100)]
        log.put(Request("pets", images, id=f"r{number}"), answer(2), shadow=False)
    log.put(Request("pets", [encoded()] * 2, id="shadowed"), answer(2), shadow=True)
    log.write(everything=True)
    rows = pd.read_parquet(tmp_path)  # which passes over the images
    named = rows["kept"].dropna()
    assert 15 < len(named) < 70 and len(rows) == 202  # 40 +- 6
    assert sorted(named) == sorted(
        path.relative_to(tmp_path / "_images").as_posix() for path in files(tmp_path)
    )
    for _, row in rows.loc[named.index].iterrows():
        data = (tmp_path / "_images" / row["kept"]).read_bytes()
        assert data == encoded(value=int(row["id"][1:]) + 100 * row["image"])
        assert row["kept"].startswith("pets/dog/")


def test_none_are_kept_unless_asked(tmp_path):
    log = PredictionLog(tmp_path, 1000, 60.0)
    log.put(Request("pets", [encoded()]), answer(1), shadow=False)
    log.write(everything=True)
    assert not (tmp_path / "_images").exists()


def test_images_that_wait_have_a_limit(tmp_path, monkeypatch):
    from vision.serving.logs import prediction_log

    monkeypatch.setattr(prediction_log, "IMAGES", 2 * len(encoded()))
    log = PredictionLog(tmp_path, 1000, 60.0, keep=KeepRules(1.0))
    for _ in range(5):
        log.put(Request("pets", [encoded()]), answer(1), shadow=False)
    log.write()
    assert len(files(tmp_path)) == 2
    log.put(Request("pets", [encoded()]), answer(1), shadow=False)  # there is room again
    log.write(everything=True)
    assert pd.read_parquet(tmp_path)["kept"].notna().sum() == 3
