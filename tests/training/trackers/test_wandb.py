"""Offline runs of Weights & Biases, read back from the file that `wandb sync` would send."""

import json

import pytest

pytest.importorskip("wandb", reason="needs the extra wandb")

from PIL import Image
from wandb.proto import wandb_internal_pb2

# The file's format is that of LevelDB's log: blocks of records, which may have several parts.
BLOCK = 32_768  # bytes
HEADER = 7  # bytes of a part: a checksum, its size, its kind; and of the file
LAST = (1, 4)  # kinds of parts that end a record


def records(folder):
    """Returns the records of one offline run."""
    data = next(folder.glob("*.wandb")).read_bytes()
    result = []
    record = b""
    at = HEADER
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        start = at + HEADER
        at = start + int.from_bytes(data[start - 3 : start - 1], "little")
        record += data[start:at]
        if data[start - 1] in LAST:
            result.append(wandb_internal_pb2.Record.FromString(record))
            record = b""
    return result


def history(rows):
    """Returns [{key: value}] of the logged steps."""
    return [
        {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in row.history.item
        }
        for row in rows
        if row.WhichOneof("record_type") == "history"
    ]


def test_a_run_is_recorded_offline_and_goes_on(begin, monkeypatch):
    monkeypatch.setenv("WANDB_CACHE_DIR", str(begin.workdir / "cache"))
    with begin("wandb", mode="offline", project="pets") as first:
        first.scalars(10, {"train/loss": 2.0})
    run_id = json.loads((begin.workdir / "tracker.json").read_text())["wandb"]
    Image.new("RGB", (8, 8)).save(begin.workdir / "curves.png")
    with begin("wandb", mode="offline", project="pets") as resumed:
        resumed.scalars(20, {"val/accuracy": 0.25})
        resumed.finish({"accuracy": 0.5})
    assert begin.lines == []
    folders = sorted(begin.workdir.glob("wandb/offline-run-*"))
    # The second may end with "-1": W&B adds it to a folder that begins within the same second.
    assert len(folders) == 2 and all(f"-{run_id}" in folder.name for folder in folders)
    before, after = map(records, folders)
    (row,) = history(before)
    assert row["train/loss"] == 2.0 and row["_step"] == 10
    rows = history(after)
    assert rows[0]["val/accuracy"] == 0.25 and rows[0]["_step"] == 20
    assert any("curves/path" in row for row in rows)
    (run,) = [row.run for row in before if row.WhichOneof("record_type") == "run"]
    assert run.run_id == run_id and run.project == "pets" and run.display_name == "pets"
    assert (folders[1] / "files" / "curves.png").is_file()
    assert (folders[1] / "files" / "result.json").is_file()
