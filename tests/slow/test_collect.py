"""From a real server to labels and back: served, collected, labeled, learned from, judged."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.live_server import serve
from tests.support.photo_run import draw, train
from vision import cli
from vision.data.division import read_division
from vision.data.sources import open_splits
from vision.evaluation.gate.__main__ import main as gate
from vision.export.__main__ import main as export
from vision.main import main as train_main
from vision.monitoring.collect import main as collect
from vision.serving.client import Client

COUNT = 30  # photos of each class


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """(the folder of all, {name of a collected image: its true class}): a server has answered 60
    darker photos and kept them, and 40 were chosen."""
    root = tmp_path_factory.mktemp("circle")
    sent = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for label in ("cat", "dog"):
            for number in range(2 * COUNT):
                draw(root / ("photos" if number < COUNT else "later"), label, number)
        train("run", "photos")
        cli.run(export, ["--workdir=run", "--out=models/pets/1"])
        flags = {"grpc_port": 0, "prediction_log": root / "log", "keep_images": 1}
        with serve(root / "models", **flags) as live, Client(live.url) as client:
            for path in sorted((root / "later").rglob("*.png")):
                darker = (cv2.imread(str(path)) * 0.5).astype(np.uint8)
                cv2.imwrite(str(path), darker)
                sent[path.read_bytes()] = path.parent.name
                client.classify(path, "pets")
        argv = ["--bundle=models/pets/1", "--log=log", "--out=to_label", "--window=60"]
        cli.run(collect, [*argv, "--count=40"])
    images = (root / "to_label" / "images").iterdir()
    return root, {path.name: sent[path.read_bytes()] for path in images}


def test_what_was_sent_is_collected_as_it_came(collected):
    root, truth = collected
    assert len(truth) == 40
    rows = list(csv.DictReader((root / "to_label" / "images.csv").open()))
    assert all("drifted" in row["reasons"] for row in rows[:4]) or any(
        "far" in row["reasons"] for row in rows
    )
    assert "Drifted" in (root / "to_label" / "report.html").read_text()


def test_the_labels_train_a_model_that_is_judged(collected, tmp_path, monkeypatch, capsys):
    root, truth = collected
    folder = shutil.copytree(root, tmp_path / "copy")
    monkeypatch.chdir(folder)
    table = folder / "to_label" / "images.csv"
    rows = list(csv.DictReader(table.open()))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"label": truth[row["path"].rpartition("/")[2]]})
    cli.run(collect, [f"--labeled={table}", "--out=to_label"])
    source = open_splits("csv:to_label/labeled.csv")["all"]
    assert len(source) == 40 and source.classes == ("cat", "dog")
    config = f"--config={REPOSITORY}/configs/incremental.py:run:csv:to_label/labeled.csv"
    flags = ["train.steps=2", "train.epochs=0.0", "train.eval_every=2", "checkpoint.every=2"]
    flags.append("data.fractions=(0.5, 0.2, 0.3)")  # of the new ones; a test for sure
    cli.run(train_main, [config, "--workdir=next", *(f"--config.{flag}" for flag in flags)])
    capsys.readouterr()
    data = ["--data=old=folder:photos", "--data=new=csv:to_label/labeled.csv"]
    cli.run(gate, ["run", "next", *data, "--max-loss=old=1", "--min-gain=new=-1", "--out=gate"])
    record = json.loads((folder / "gate" / "gate.json").read_text())
    # none that either of them has learned from, or was chosen by
    for name, prefix in (("old", ""), ("new", "2:")):
        tests = [
            image
            for image in read_division(folder / "next" / "splits.csv.gz")["test"].names
            if image.startswith("2:") == bool(prefix)
        ]
        assert record["data"][name]["images"] == len(tests) > 0
        assert record["data"][name]["seen"] > 0
    assert "next may replace run: it passes all 2 rules" in capsys.readouterr().out
    cli.run(export, ["--workdir=next", "--out=models/pets/2"])
    cli.run(
        gate,
        [
            "models/pets/1",
            "models/pets/2",
            *data,
            "--max-loss=old=1",
            "--min-gain=new=-1",
            "--out=gate",
        ],
    )
    bundles = json.loads((folder / "gate" / "gate.json").read_text())
    for name in ("old", "new"):
        for key in ("images", "seen", "accuracy"):
            assert bundles["data"][name][key] == record["data"][name][key]
