"""A run on photos, its bundle, and the log of a server that was asked about darker ones."""

import csv
import pathlib

import cv2
import numpy as np
import pytest

from tests.support.live_server import serve
from tests.support.photo_run import draw, train
from vision import cli
from vision.export.__main__ import main as export
from vision.serving.client import Client

COUNT = 30  # photos of each class
# of the next training
TRAINING = {
    "train.steps": 2,
    "train.epochs": 0.0,
    "train.eval_every": 2,
    "checkpoint.every": 2,
    "data.fractions": "(0.5,0.2,0.3)",
}
TRAINING_FLAGS = " ".join(f"'--config.{key}={value}'" for key, value in TRAINING.items())


def write_served(root):
    """Writes photos/, later/ and tests/ (darker ones), run/, models/pets/1 and log/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for label in ("cat", "dog"):
            for number in range(3 * COUNT):
                draw(root / ("photos", "later", "tests")[number // COUNT], label, number)
        for path in [*(root / "later").rglob("*.png"), *(root / "tests").rglob("*.png")]:
            cv2.imwrite(str(path), (cv2.imread(str(path)) * 0.5).astype(np.uint8))
        train("run", "photos")
        cli.run(export, ["--workdir=run", "--out=models/pets/1"])
        flags = {"grpc_port": 0, "prediction_log": root / "log", "keep_images": 1}
        with serve(root / "models", **flags) as live, Client(live.url) as client:
            for path in sorted((root / "later").rglob("*.png")):
                client.classify(path, "pets")


def label(root, collection, answers):
    """Writes the answers of a person who labels the collection, and makes no mistake."""
    sent = {path.read_bytes(): path.parent.name for path in (root / "later").rglob("*.png")}
    pathlib.Path(answers).parent.mkdir(parents=True, exist_ok=True)
    with (
        open(collection / "images.csv", newline="") as table,
        open(answers, "w", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for row in csv.DictReader(table):
            writer.writerow([row["path"], sent[(collection / row["path"]).read_bytes()]])
