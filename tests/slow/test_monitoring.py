"""Drift of real servers, the level of its tests, and what a large log costs."""

import contextlib
import json
import pathlib
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from experiments.drift import cost
from tests.conftest import REPOSITORY
from tests.monitoring.conftest import photos
from tests.monitoring.conftest import reference_of as reference_of_bundle
from tests.support import drifting
from tests.support.drifting import reference_of, window_of
from tests.support.live_server import serve
from tests.support.photo_run import draw, train
from tests.support.tiny_bundle import write_bundle
from vision import cli, inference
from vision.bundle.directory import open_bundle
from vision.data.division import read_division
from vision.data.pipeline import named_splits
from vision.export.__main__ import main as export
from vision.main import main as train_main
from vision.monitoring.drift import main as drift
from vision.reference import appearance, features
from vision.reference.features import NAMES
from vision.reference.statistics import parse
from vision.reference.verdict import Limits, assess
from vision.serving.client import Client


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder of photos, directory of the models, the bundle, names of each split)."""
    root = tmp_path_factory.mktemp("exported")
    for label in ("cat", "dog"):
        for number in range(60):
            draw(root / "photos", label, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train("run", "photos", "data.image_size=4")  # the photos have 8 pixels
        cli.run(export, ["--workdir=run", "--out=models/pets/1"])
    division = read_division(root / "run" / "splits.csv.gz")
    return root, open_bundle(root / "models" / "pets" / "1"), division


@pytest.fixture(scope="module")
def logged(exported):
    """{split: rows of the log of a server that got the split's photos as files}."""
    root, _, division = exported
    log = root / "log"
    with (
        serve(root / "models", grpc_port=0, prediction_log=log) as live,
        Client(live.url) as client,
    ):
        for split in ("train", "val"):
            for name in division[split].names:
                client.classify(root / "photos" / name, "pets", version="1")
        pixels = np.zeros((3, 4, 4, 3), np.uint8)
        client.classify(pixels, "pets")
    rows = pd.read_parquet(log)
    first, second = np.cumsum([len(division[split].names) for split in ("train", "val")])
    return {"train": rows[:first], "val": rows[first:second], "pixels": rows[second:]}


def test_the_reference_and_the_log_agree_bit_for_bit(exported, logged):
    _, bundle, _ = exported
    reference = parse(bundle.reference, 2, "bundle.json")
    for name in appearance.NAMES:
        feature = reference.features[name]
        values = logged["train"][name].to_numpy()
        np.testing.assert_array_equal(features.count(values, feature.edges), feature.counts)
        edges = features.bin_edges(values)
        np.testing.assert_array_equal(edges, feature.edges)  # made of the same bits
    assert len(np.unique(logged["train"]["brightness"])) > 20


def test_what_the_model_says_is_of_validation_images(exported, logged):
    _, bundle, _ = exported
    reference = parse(bundle.reference, 2, "bundle.json")
    rows = logged["val"]
    classes = [(rows["class"] == name).sum() for name in bundle.classes]
    assert reference.class_counts.tolist() == classes
    sketches = np.stack(rows["sketch"]).astype(np.float64)
    np.testing.assert_allclose(reference.mean, sketches.mean(0), atol=2e-3)
    np.testing.assert_allclose(reference.covariance, np.cov(sketches.T), atol=2e-3)
    for name in features.OUTPUTS:
        assert reference.features[name].counts.sum() == len(rows)
        # the server's batches are others, which may move a probability by its last bits
        values = np.sort(rows[name].to_numpy())
        smallest, largest = reference.features[name].edges[[0, -1]]
        assert values[0] == pytest.approx(smallest, abs=1e-5)
        assert values[-1] == pytest.approx(largest, abs=1e-5)


def test_pixels_are_logged_without_the_size_that_nobody_knows(logged):
    rows = logged["pixels"]
    assert len(rows) == 3 and rows[["aspect_ratio", "size"]].isna().all(None)
    assert (rows["brightness"] == 0).all() and (rows["image"] == [0, 1, 2]).all()
    assert logged["train"]["size"].unique().tolist() == [8.0]


def test_the_command_reads_the_servers_log(exported, logged, tmp_path, capsys):
    root, bundle, _ = exported
    shown = len(logged["train"]) + len(logged["val"])
    argv = [
        f"--bundle={root / 'models/pets/1'}",
        f"--log={root / 'log'}",
        f"--out={tmp_path / 'out'}",
    ]
    drift([*argv, f"--window={shown}"])
    assert f"{shown + 3} rows of this model" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert record["bundle"]["fingerprint"] == bundle.fingerprint == logged["val"]["bundle"].iloc[0]
    assert record["windows"][0]["features"]["brightness"]["effect"] < 0.1


def test_a_bundle_is_known_by_its_model_wherever_it_lies(exported, tmp_path):
    root, bundle, _ = exported
    copy = shutil.copytree(root / "models" / "pets" / "1", tmp_path / "copy")
    manifest = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(manifest | {"reference": None}))
    assert open_bundle(copy).fingerprint == bundle.fingerprint
    assert len(bundle.fingerprint) == 16


def test_without_drift_the_tests_keep_their_level():
    """Each window has a reference of its own, so that they are independent: p-values below 0.05
    come in 5 % of the cases, and alarms, without a floor of size, in at most 5 %."""
    count = 200
    random = np.random.default_rng(1)
    below = dict.fromkeys((*NAMES, "class", "embedding_mmd", "embedding_shift"), 0)
    alarms = 0
    limits = Limits(alpha=0.05, effect=0.0)
    for number in range(count):
        own = reference_of(150, random)
        result = assess(own, window_of(own, drifting.draw(100, random)), limits, number)
        for name, measures in result["features"].items():
            if "p" in measures:
                below[name] += measures["p"][measures["test"]] <= 0.05
        alarms += result["alarm"]
    high = scipy.stats.binom.ppf(0.9995, count, 0.05)
    tested = {name: number for name, number in below.items() if name != "aspect_ratio"}
    assert max(tested.values()) <= high and alarms <= high
    assert sum(tested.values()) >= scipy.stats.binom.ppf(0.001, count * len(tested), 0.05)


DIGITS = pathlib.Path("/usr/share/doc/opencv-doc/examples/data/digits.png")
TRAINING = {
    "data.source": "mnist5k",
    "data.image_size": 28,
    "data.channels": 1,
    "model.name": "cnn",
    "model.variant": "small",
    "train.steps": 60,
    "train.epochs": 0.0,
    "train.batch_size": 64,
    "train.eval_every": 60,
    "checkpoint.every": 60,
    "log.progress": False,
    "log.tensorboard": False,
    "parallel.devices": 1,
}


def send(url, images, count):
    """Sends images as files, at most `count`, several at a time."""
    with Client(url) as client:
        for image in images[:count]:
            client.classify(cv2.imencode(".png", image)[1].tobytes(), "digits")


def test_a_real_shift_alarms(tmp_path, monkeypatch, capsys):
    """Other people's handwriting, scanned otherwise: OpenCV's digits, to a model of MNIST's."""
    if not DIGITS.is_file():
        pytest.skip(f"no {DIGITS}: apt-get install opencv-doc")
    monkeypatch.chdir(tmp_path)
    flags = [f"--config.{key}={value}" for key, value in TRAINING.items()]
    config = f"--config={REPOSITORY}/configs/resnet_folder.py:none"
    cli.run(train_main, [config, "--workdir=run", *flags])
    cli.run(export, ["--workdir=run", "--out=models/digits/1"])
    splits, _ = named_splits(inference.from_run("run").config.data, 0)
    test = splits["test"]  # class by class, so its first images would be a drift of classes
    own = [test[int(i)]["image"] for i in np.random.default_rng(0).permutation(len(test))]
    sheet = cv2.imread(str(DIGITS), cv2.IMREAD_GRAYSCALE)
    others = sheet.reshape(50, 20, 100, 20).swapaxes(1, 2).reshape(-1, 20, 20, 1)
    codes = []
    for name, images in (("own", own), ("others", others[:: len(others) // 500])):
        with serve(tmp_path / "models", grpc_port=0, prediction_log=tmp_path / name) as live:
            send(live.url, images, 400)
        argv = ["--bundle=models/digits/1", f"--log={name}", f"--out=out-{name}"]
        with contextlib.suppress(SystemExit):
            codes.append(1)
            cli.run(drift, [*argv, "--window=400", "--strict"])
            codes[-1] = 0
    assert codes == [0, 1]
    record = json.loads(pathlib.Path("out-others/drift.json").read_text())
    alarming = {alarm["feature"] for alarm in record["alarms"]}
    assert {"sharpness", "embedding_mmd"} <= alarming  # not only the size of the files
    assert "the latest window has drifted" in capsys.readouterr().err


def test_a_million_rows_stream(tmp_path):
    """In less memory than the rows of one column would take as Python's objects."""
    plain = open_bundle(write_bundle(tmp_path / "plain"))
    reference = reference_of_bundle(plain, photos(500, 1), photos(500, 2))
    bundle = write_bundle(tmp_path / "bundle", reference=reference)
    cost.write_log(tmp_path / "log", bundle, 1_000_000)
    _, _, memory = cost.run(bundle, tmp_path / "log", 100_000, tmp_path / "out")
    assert memory < 2**30
    record = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert record["rows"] == 1_000_000 and len(record["windows"]) == 10 and not record["alarm"]
