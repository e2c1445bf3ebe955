"""The command, a log of two versions, and what the command says and writes."""

import json

import numpy as np
import pytest

from tests.support import ab_logs
from tests.support.commands import outcome
from vision.monitoring.abtest.__main__ import main

REQUESTS = 3000


@pytest.fixture
def command(tmp_path, capsys):
    """`command(*flags)` runs the analysis; returns (exit code, stdout, stderr)."""

    def run(*flags, word="analyze"):
        argv = [word]
        if word == "analyze":
            argv += [f"--log={tmp_path / 'log'}", "--model=pets", "--old=1", "--new=2"]
            argv += [f"--out={tmp_path / 'out'}"]
        return outcome(main, capsys, *argv, *flags)

    return run


@pytest.fixture
def split(tmp_path):
    """A log of two versions, the new one better by 0.06, with labels and a table by request."""
    random = np.random.default_rng(0)
    columns, truth = ab_logs.draw(random, REQUESTS, (0.84, 0.9), images=2)
    columns["brightness"] = random.random(len(truth)).astype(np.float32)
    columns["confidence"] = random.normal(0.8, 0.05, len(truth)).astype(np.float32)
    ab_logs.write(tmp_path / "log", columns)
    ab_logs.write_labels(tmp_path / "labels.csv", columns["id"], columns["image"], truth)
    random = np.random.default_rng(1)
    before = random.normal(100, 20, REQUESTS)
    latency = before + random.normal(0, 5, REQUESTS)
    lines = ["id,latency,before,user,bought"]
    for i in range(REQUESTS):
        bought = int(random.random() < 0.3)
        lines.append(f"r{i},{latency[i]:.4f},{before[i]:.4f},u{i // 2},{bought}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return columns, truth


def record_of(tmp_path):
    return json.loads((tmp_path / "out" / "abtest.json").read_text())


def error_of(result):
    code, _, errors = result
    assert code == 2 and errors.startswith("error: ") and len(errors.splitlines()) <= 2, result
    return errors
