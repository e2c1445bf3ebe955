"""The way back as DVC stages: collected, labeled by hand, learned from, judged, exported."""

import csv
import json
import sys

import cv2
import numpy as np
import pytest
import yaml

from tests.support.dvc import dvc_bin, repository, stages  # noqa: F401
from tests.support.live_server import serve
from tests.support.photo_run import draw, train
from vision import cli
from vision.export.__main__ import main as export
from vision.serving.client import Client

PIPELINE = "scripts/dvc/circle/dvc.yaml"
PARAMS = "scripts/dvc/circle/params.yaml"
COUNT = 30  # photos of each class
TRAINING = {
    "train.steps": 2,
    "train.epochs": 0.0,
    "train.eval_every": 2,
    "checkpoint.every": 2,
    "data.fractions": "(0.5,0.2,0.3)",
}


@pytest.fixture(scope="module")
def here(dvc_bin, tmp_path_factory):  # noqa: F811
    """A function that runs a command in a Git repository of this code, with a run, its bundle, and
    the log of a server that was asked about darker photos."""
    root = tmp_path_factory.mktemp("clone")
    run = repository(root, dvc_bin)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for label in ("cat", "dog"):
            for number in range(3 * COUNT):
                folder = ("photos", "later", "tests")[number // COUNT]
                draw(root / folder, label, number)
        for path in [*(root / "later").rglob("*.png"), *(root / "tests").rglob("*.png")]:
            cv2.imwrite(str(path), (cv2.imread(str(path)) * 0.5).astype(np.uint8))
        train("run", "photos")
        cli.run(export, ["--workdir=run", "--out=models/pets/1"])
        flags = {"grpc_port": 0, "prediction_log": root / "log", "keep_images": 1}
        with serve(root / "models", **flags) as live, Client(live.url) as client:
            for path in sorted((root / "later").rglob("*.png")):
                client.classify(path, "pets")
    write_params(root)
    return run


def write_params(root, flags="--max-loss old=1 --min-gain new=-1"):
    params = yaml.safe_load((root / PARAMS).read_text())
    params["python"] = sys.executable
    params["served"] = {"run": "run", "bundle": "models/pets/1"}
    params["collect"] |= {"log": "log", "count": 40, "flags": "--window 60"}
    params["retrain"]["flags"] = " ".join(f"--config.{k}={v}" for k, v in TRAINING.items())
    params["retrain"]["flags"] = params["retrain"]["flags"].replace("(", '"(').replace(")", ')"')
    params["gate"] = {"old": "folder:photos", "new": "folder:tests", "files": "tests"}
    params["gate"]["flags"] = flags
    (root / PARAMS).write_text(yaml.safe_dump(params))


def label(root):
    """Fills in the table of the collection, as a person would, and keeps it in Git's part."""
    sent = {path.read_bytes(): path.parent.name for path in (root / "later").rglob("*.png")}
    to_label = root / "pipeline" / "circle" / "to_label"
    (root / "labels").mkdir()
    with (
        open(to_label / "images.csv", newline="") as table,
        open(root / "labels" / "round-1.csv", "w", newline="") as answers,
    ):
        writer = csv.writer(answers)
        writer.writerow(["path", "label"])
        for row in csv.DictReader(table):
            writer.writerow([row["path"], sent[(to_label / row["path"]).read_bytes()]])


def test_the_way_back(here):
    circle = here.root / "pipeline" / "circle"
    output = here("dvc", "repro", PIPELINE, fails=True)  # nobody has labeled
    assert stages(output) == ["collect"] and "labels/round-1.csv" in output
    assert stages(here("dvc", "repro", f"{PIPELINE}:collect")) == []
    assert len(list((circle / "to_label" / "images").iterdir())) == 40
    label(here.root)

    write_params(here.root, "--min-gain new=1")  # which no model keeps
    output = here("dvc", "repro", PIPELINE, fails=True)
    assert stages(output) == ["label", "retrain", "gate"]
    assert "must not take the place" in (circle / "gate" / "gate.md").read_text()
    assert not (circle / "bundle").exists()

    write_params(here.root)
    assert stages(here("dvc", "repro", PIPELINE)) == ["gate", "export"]
    assert json.loads((circle / "gate" / "gate.json").read_text())["passed"]
    assert (circle / "bundle" / "bundle.json").is_file()
    assert len((circle / "labeled" / "labeled.csv").read_text().splitlines()) == 41
    assert stages(here("dvc", "repro", PIPELINE)) == []
    here("dvc", "push")
    here("git", "add", ".")
    staged = here("git", "diff", "--cached", "--name-only").splitlines()
    assert {
        "labels/round-1.csv",
        "pipeline/circle/gate/gate.md",
        "scripts/dvc/circle/dvc.lock",
    } <= {*staged}
    assert not any(
        name.startswith(("pipeline/circle/run", "pipeline/circle/bundle")) for name in staged
    )
