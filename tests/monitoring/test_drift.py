"""`python -m vision.monitoring.drift`: windows, alarms, the report, and what a user gets wrong."""

import json
import shutil

import numpy as np
import pytest

from tests.monitoring.conftest import START, photos
from tests.support.commands import outcome
from tests.support.tiny_bundle import write_bundle
from vision.errors import UserError
from vision.monitoring import drift
from vision.monitoring.windows import Span, parse_span
from vision.serving.logs.kept_images import KeepRules


@pytest.fixture
def command(watched, tmp_path, capsys):
    """`command(*flags)` runs the command; returns (exit code, stdout, stderr)."""

    def run(*flags, bundle=watched[0]):
        argv = [f"--bundle={bundle}", f"--log={tmp_path / 'log'}", f"--out={tmp_path / 'out'}"]
        return outcome(drift.main, capsys, *argv, *flags)

    return run


@pytest.fixture
def drifted(writer):
    """A log of 900 images, a second each, of which the last 300 are darker, and some are kept."""
    writing = writer(rows=250, keep=KeepRules(share=0.1, seconds=1e12))
    writing.put(photos(600, 3), START + np.arange(600))
    writing.put(photos(300, 4, light=0.6), START + 600 + np.arange(300))
    writing.close()


def test_what_has_drifted_and_since_when(drifted, command, tmp_path):
    code, printed, errors = command("--window=150", "--strict")
    assert code == 1 and errors.startswith("error: the latest window has drifted: ")
    assert (
        "900 rows of this model, 0 of others; drift in 2 of the latest 6 windows of 150" in printed
    )
    assert "brightness since 2025-10-09T09:03:20Z: KL " in printed
    record = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert [window["alarm"] for window in record["windows"]] == [False] * 4 + [True] * 2
    assert [window["rows"] for window in record["windows"]] == [150] * 6
    assert record["alarm"] and record["served_as"] == [
        {"model": "pets", "version": "3", "rows": 900}
    ]
    assert "contrast" in [alarm["feature"] for alarm in record["alarms"]]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Images of the latest window with an alarm" in page and "without one" in page
    assert "data:image/png;base64," in page and "brightness" in page and "<script src" not in page


def test_windows_of_time(drifted, command, tmp_path):
    code, printed, _ = command("--window=5m", "--history=2")
    record = json.loads((tmp_path / "out" / "drift.json").read_text())
    # windows begin at full minutes of the clock; the log begins at 08:53:20
    assert code == 0 and [window["rows"] for window in record["windows"]] == [300, 200]
    assert record["windows"][-1]["start"] == "2025-10-09T09:05:00Z"
    assert "drift in 2 of the latest 2 windows of 5m" in printed


def test_what_does_not_drift_is_silent(writer, command):
    writing = writer()
    writing.put(photos(300, 3), START + np.arange(300))
    writing.close()
    code, printed, errors = command("--window=300", "--strict")
    assert code == 0 and errors == "" and "300 rows: no drift" in printed


def error_of(result):
    code, printed, errors = result
    assert code == 2 and printed == "", result
    assert errors.startswith("error: ") and len(errors.splitlines()) <= 2
    return errors


def test_a_bundle_without_a_reference(drifted, command, tmp_path):
    plain = write_bundle(tmp_path / "plain")
    assert "no reference to measure drift from: export it again" in error_of(command(bundle=plain))
    old = write_bundle(tmp_path / "old", reference={"images": 3, "pixel_mean": [0.5]})
    assert "no reference to measure drift from" in error_of(command(bundle=old))
    assert "there is no bundle" in error_of(command(bundle=tmp_path / "nowhere"))


def test_a_log_of_another_model(drifted, command, watched, tmp_path):
    from vision.bundle.directory import read_manifest

    other = write_bundle(
        tmp_path / "other", model={"batch": "N"}, reference=read_manifest(watched[0]).reference
    )
    message = error_of(command(bundle=other))
    assert "has no rows of the model" in message and "only of pets/3" in message


def test_an_error_leaves_what_was_there(drifted, command, tmp_path):
    assert command("--window=150")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    error_of(command("--window=5000"))
    shutil.rmtree(tmp_path / "log")
    error_of(command())
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_fewer_rows_than_a_window_and_none(writer, command):
    writing = writer()
    writing.close()
    assert "has no predictions-" in error_of(command())
    writing.put(photos(40, 3), START + np.arange(40))
    writing.close()
    assert "40 rows of this model, fewer than a window" in error_of(command("--window=41"))
    code, printed, _ = command("--window=1s")  # windows of one image, which is not tested
    assert code == 0 and "1 rows: no drift" in printed


def test_a_gap_without_traffic_is_no_window(writer, command, tmp_path):
    writing = writer()
    for hour in (0, 5):
        writing.put(photos(60, hour), START + 3600 * hour + np.arange(60))
    writing.close()
    assert command("--window=1h")[0] == 0
    record = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert [window["rows"] for window in record["windows"]] == [60, 60]
    numbers = [window["number"] for window in record["windows"]]
    assert numbers[1] - numbers[0] == 5


def test_a_clock_that_went_back(writer, command, tmp_path):
    writing = writer()
    writing.put(photos(60, 3), START + np.append(np.arange(30), np.arange(30) - 4000))
    writing.close()
    message = error_of(command("--window=1h"))
    assert "clock went back by 4,029 s in predictions-" in message and "--window ROWS" in message
    code, printed, _ = command("--window=60")  # the order of writing is certain
    assert code == 0 and "clock went back" in printed
    assert "clock" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--window=0", "at least 30 rows"),
        ("--window=12", "at least 30 rows"),
        ("--window=0h", "longer than 0"),
        ("--window=1y", "must be a number of rows, or a time"),
        ("--window=-5", "must be a number of rows, or a time"),
        ("--history=0", "at least 1"),
        ("--alpha=0", r"in \[0.001, 0.5\]"),
        ("--alpha=nan", r"in \[0.001, 0.5\]"),
        ("--kl=0", "above 0"),
        ("--effect=2", r"in \[0, 1\]"),
        ("--log=", "give --log"),
        ("--out=", "give --out"),
        ("--bundle=", "give --bundle"),
        ("word", "unexpected argument"),
        ("--windows=3", "window"),
    ],
)
def test_flags_that_are_wrong(tmp_path, flag, message):
    argv = [f"--bundle={tmp_path}", f"--log={tmp_path}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=message):
        drift.main([*argv, flag])
    assert not (tmp_path / "out").exists()


def test_spans():
    assert parse_span("1000") == Span(1000, 0) and parse_span(" 90s ") == Span(0, 90)
    assert parse_span("30m").seconds == 1800 and parse_span("7d").seconds == 604_800


def test_an_output_that_cannot_be_written(drifted, command, tmp_path):
    (tmp_path / "out").write_text("a file")
    code, _, errors = command("--window=150")
    assert code == 2 and "--out" in errors and (tmp_path / "out").read_text() == "a file"
