"""The linear probe, on embeddings whose answer is known, and the command."""

import json

import numpy as np
import pytest

from vision import cli
from vision.evaluation import probe


def clusters(count, seed, spread=0.5):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    centers = np.eye(4, 16) * 5
    return (centers[labels] + spread * random.normal(size=(count, 16))).astype(np.float32), labels


def test_separable_classes_are_found():
    train = clusters(80, 0)
    val = clusters(40, 1)
    test = clusters(40, 2)
    assert probe.linear_probe(*train, *val, *test)[0] == 1.0


def test_the_command(tiny_run, tmp_path, capsys):
    cli.run(probe.main, ["--workdir", str(tiny_run), "--k=3", f"--out={tmp_path}/probe.json"])
    out = capsys.readouterr().out
    assert (
        "embeddings of 32 numbers" in out
        and "linear probe: 0." in out
        and "3 nearest neighbors: 0." in out
    )
    record = json.loads((tmp_path / "probe.json").read_text())
    assert (
        record["k"] == 3
        and f"linear probe: {record['linear_probe']:.4f} (C = {record['C']:g})" in out
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "which model?"),
        (("--workdir", "x", "--k=0"), "--k must be at least 1, got 0"),
        (("--workdir", "x", "y"), "unexpected argument"),
        (("--workdir", "x", "--out=none/probe.json"), "its folder does not exist"),
    ],
)
def test_mistakes(argv, message, capsys):
    with pytest.raises(SystemExit) as error:
        cli.run(probe.main, list(argv))
    assert error.value.code == 2 and message in capsys.readouterr().err
