"""Reading a log: what was written comes back, in parts; what is not such a log is named."""

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from tests.monitoring.conftest import START, photos
from vision.errors import UserError
from vision.monitoring import log as reading
from vision.monitoring.log import open_log, seconds_of
from vision.monitoring.windows import COLUMNS, Selector
from vision.reference import appearance
from vision.reference.log_format import schema


def test_what_a_server_writes_is_read_in_parts(writer, watched, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "ROWS", 7)
    images = photos(30, 5)
    writing = writer(rows=12)
    writing.put(images, START + np.arange(30))
    writing.close()
    log = open_log(tmp_path / "log")
    assert len(log.files) == 3 and not log.skipped
    selector = Selector(watched[1].fingerprint, watched[1].classes)
    batches = list(log.batches(COLUMNS))
    assert max(map(len, batches)) <= 7
    parts = [selector.select(batch) for batch in batches]
    values = np.concatenate([part.values for part in parts])
    looks = np.stack([appearance.measure(image, image.shape) for image in images])
    np.testing.assert_array_equal(values[:, :7], looks)
    outputs = watched[1].probabilities_and_embeddings(images)
    np.testing.assert_array_equal(
        np.concatenate([part.classes for part in parts]), outputs[0].argmax(1)
    )
    np.testing.assert_allclose(values[:, 7], outputs[0].max(1), rtol=1e-6)
    seconds = np.concatenate([seconds_of(batch) for batch in batches])
    np.testing.assert_allclose(seconds, START + np.arange(30))
    assert selector.names == {("pets", "3"): 30} and not selector.others and not log.steps_back


def test_pandas_reads_the_same(writer, tmp_path):
    writing = writer()
    writing.put(photos(5, 5), START + np.arange(5))
    writing.close()
    rows = pd.read_parquet(tmp_path / "log")
    (batch,) = open_log(tmp_path / "log").batches(["brightness", "entropy"])
    for name in ("brightness", "entropy"):
        np.testing.assert_array_equal(rows[name], batch.column(name).to_numpy())


def test_rows_of_other_bundles_are_counted_and_left_out(writer, watched, tmp_path):
    writing = writer()
    writing.put(photos(4, 5), START + np.arange(4))
    writing.put(photos(3, 6), START + np.arange(3), version="4", description=None)
    writing.close()
    selector = Selector(watched[1].fingerprint, watched[1].classes)
    parts = [selector.select(batch) for batch in open_log(tmp_path / "log").batches(COLUMNS)]
    assert sum(len(part.seconds) for part in parts) == selector.rows == 4
    assert selector.others == {("pets", "4"): 3}


@pytest.mark.parametrize(
    "times, step",
    [
        ([0, 1, 2], None),
        ([0, 1, 0.5], None),  # a clock that is being adjusted
        ([0, 100, 40, 41], 60),
        ([0, 10_000_000_000, 10_000_000_001], 10_000_000_001),  # later than the file's name
    ],
)
def test_a_clock_that_goes_back_is_noticed(writer, tmp_path, times, step):
    writing = writer()
    writing.put(photos(len(times), 5), START + np.array(times))
    writing.close()
    log = open_log(tmp_path / "log")
    list(log.batches(["time"]))
    steps = list(log.steps_back.values())
    if step is None:
        assert steps == []
    else:
        assert steps[0] == pytest.approx(step, rel=0.2)


def write_file(path, arrow_schema):
    table = pyarrow.Table.from_pylist([], schema=arrow_schema)
    pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({}, "it is not a prediction log"),
        ({"vision_predictions": "1", "sketch": "sign/16/1"}, "format 1, but this version reads 2"),
        ({"vision_predictions": "2", "sketch": "sign/8/1"}, "sketches are of kind sign/8/1"),
    ],
    ids=["foreign", "older", "other sketches"],
)
def test_files_of_other_formats_are_named(writer, tmp_path, metadata, message):
    other = tmp_path / "log" / "predictions-20200101T000000.000000Z-1-000000.parquet"
    other.parent.mkdir()
    write_file(other, schema(pyarrow).with_metadata(metadata))
    with pytest.raises(UserError, match=message) as error:
        open_log(tmp_path / "log")
    assert len(str(error.value).splitlines()) == 1
    writing = writer()
    writing.put(photos(2, 5), [START, START])
    writing.close()
    log = open_log(tmp_path / "log")  # beside files of this format it is only left out
    assert len(log.files) == 1 and message in log.skipped[other.name]


def test_a_file_without_a_column_is_named(tmp_path):
    path = tmp_path / "predictions-20200101T000000.000000Z-1-000000.parquet"
    full = schema(pyarrow)
    write_file(path, full.remove(full.get_field_index("entropy")))
    with pytest.raises(UserError, match="its column entropy is missing"):
        open_log(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "predictions-20200101T000000.000000Z-1-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="is not a complete Parquet file") as error:
        open_log(tmp_path)
    assert len(str(error.value).splitlines()) <= 2


def test_a_directory_without_a_log(tmp_path):
    with pytest.raises(UserError, match="there is no directory"):
        open_log(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no predictions-"):
        open_log(tmp_path)


def test_a_file_that_the_server_deletes_meanwhile_is_passed_over(writer, tmp_path):
    writing = writer(rows=2)
    writing.put(photos(6, 5), START + np.arange(6))
    writing.close()
    log = open_log(tmp_path / "log")
    log.files[1].unlink()
    assert sum(map(len, log.batches(["time"]))) == 4


def test_a_class_that_the_bundle_has_not(writer, watched, tmp_path):
    writing = writer()
    writing.put(photos(2, 5), [START, START])
    writing.close()
    selector = Selector(watched[1].fingerprint, ("something else",))
    with pytest.raises(UserError, match="bundle.json does not"):
        [selector.select(batch) for batch in open_log(tmp_path / "log").batches(COLUMNS)]
