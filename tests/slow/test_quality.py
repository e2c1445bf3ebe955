"""Quality of a real server's answers, shown to Prometheus too, and what a large log costs."""

import csv
import json
import signal
import subprocess
import sys
import time
import urllib.request

import cv2
import numpy as np
import pandas as pd
import pytest
from prometheus_client.parser import text_string_to_metric_families

from experiments.drift import cost
from tests.conftest import REPOSITORY
from tests.monitoring.conftest import photos
from tests.monitoring.conftest import reference_of as drift_reference_of
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import open_bundle
from vision.reference import quality
from vision.serving.client import Client

CLASSES = [f"class {i}" for i in range(10)]
COMMAND = [sys.executable, "-m", "vision.monitoring.quality"]


def truth_of(bundle, images, random, wrong):
    """Returns the places of the true classes of images, of which some are not what the model
    says."""
    truth = bundle.probabilities_and_embeddings(images)[0].argmax(1)
    changed = random.random(len(truth)) < wrong
    truth[changed] = (truth[changed] + 1) % len(CLASSES)
    return truth


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle of which 95 % of the answers were right, with a reference for drift as well."""
    root = tmp_path_factory.mktemp("measured")
    plain = open_bundle(write_bundle(root / "plain"))
    unseen = photos(600, 2)
    reference = drift_reference_of(plain, photos(600, 1), unseen)
    truth = truth_of(plain, unseen, np.random.default_rng(0), 0.05)
    probabilities = plain.probabilities_and_embeddings(unseen)[0]
    reference["quality"] = quality.describe(probabilities, truth)
    return write_bundle(root / "models" / "pets" / "1", reference=reference)


@pytest.fixture(scope="module")
def served(bundle, tmp_path_factory):
    """(folder with the log and labels of a server's answers, the server's metrics)."""
    root = tmp_path_factory.mktemp("served")
    images = photos(400, 3)
    random = np.random.default_rng(1)
    opened = open_bundle(bundle)
    truth = [truth_of(opened, images[:200], random, 0.05)]
    truth.append(truth_of(opened, images[200:], random, 0.4))
    models = bundle.parent.parent
    with (
        serve(models, grpc_port=0, prediction_log=root / "log", drift_window=100) as live,
        Client(live.url) as client,
        (root / "labels.csv").open("w", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["id", "label", "time"])
        for place, (image, label) in enumerate(zip(images, np.concatenate(truth), strict=True)):
            result = client.classify(cv2.imencode(".png", image)[1].tobytes(), "pets")
            writer.writerow([result.id, CLASSES[label], f"{time.time():.3f}"])
            if place == len(images) - 2:
                time.sleep(62)  # a window of the metrics takes a minute
        metrics = ""
        for _ in range(100):
            with urllib.request.urlopen(f"{live.url}/metrics", timeout=10) as answer:
                metrics = answer.read().decode()
            if "vision_quality_estimated_accuracy{" in metrics:
                break
            time.sleep(0.2)
    return root, values_of(metrics)


def values_of(text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_labels_by_the_clients_identifiers_show_the_decay(bundle, served, tmp_path):
    root, _ = served
    argv = [f"--bundle={bundle}", f"--log={root / 'log'}", f"--labels={root / 'labels.csv'}"]
    argv += ["--window=200", f"--out={tmp_path / 'out'}", "--strict"]
    done = subprocess.run([*COMMAND, *argv], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1 and "quality has decayed: pets/1 accuracy" in done.stderr
    assert "400 labels, 0 of them for requests that are not in the log" in done.stdout
    record = json.loads((tmp_path / "out" / "quality.json").read_text())
    first, second = record["versions"][0]["windows"]
    assert not first["alarm"] and first["accuracy"]["value"] == pytest.approx(0.95, abs=0.05)
    assert second["alarm"] and second["accuracy"]["value"] == pytest.approx(0.6, abs=0.1)


def test_the_server_estimates_what_the_reference_lets_expect(bundle, served):
    root, metrics = served
    confidence = pd.read_parquet(root / "log")["confidence"].to_numpy(np.float64)
    knots = open_bundle(bundle).reference["quality"]["cbpe"]
    expected = np.interp(confidence, knots["confidence"], knots["accuracy"]).mean()
    shown = metrics["vision_quality_estimated_accuracy", "pets", "1"]
    assert shown == pytest.approx(expected, abs=1e-4)


def test_prometheus_is_shown_the_truth_until_a_signal(bundle, served, tmp_path):
    root, _ = served
    labels = tmp_path / "labels"
    labels.mkdir()
    argv = [f"--bundle={bundle}", f"--log={root / 'log'}", f"--labels={labels}", "--window=200"]
    process = subprocess.Popen(
        [*COMMAND, *argv, "--listen=127.0.0.1:0", "--every=1"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = process.stdout.readline().split()[2].rstrip(",")
        (labels / "today.csv").write_text((root / "labels.csv").read_text())
        for _ in range(300):
            with urllib.request.urlopen(url, timeout=10) as answer:
                shown = values_of(answer.read().decode())
            if ("vision_quality_alarm", "pets", "1") in shown:
                break
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    # unless the labels came before the first look
    assert errors == "" or errors.startswith(f"error: --labels {labels} has no file of labels")
    assert shown["vision_quality_alarm", "pets", "1"] == 1
    assert shown["vision_quality_labels", "pets", "1"] == 200
    accuracy = shown["vision_quality_accuracy", "pets", "1"]
    low = shown["vision_quality_accuracy_low", "pets", "1"]
    assert low < accuracy < shown["vision_quality_accuracy_high", "pets", "1"]


def test_a_million_rows_stream(bundle, tmp_path):
    """With a label for one of ten."""
    cost.write_log(tmp_path / "log", bundle, 1_000_000)
    ids = [f"{file}-{row}" for file in range(100) for row in range(0, cost.FILE, 10)]
    labels = np.random.default_rng(0).choice(CLASSES, len(ids))
    pd.DataFrame({"id": ids, "label": labels}).to_parquet(tmp_path / "labels.parquet")
    more = f"--labels={tmp_path / 'labels.parquet'}"
    module = "vision.monitoring.quality"
    out = tmp_path / "out"
    _, _, memory = cost.run(bundle, tmp_path / "log", 100_000, out, more, module=module)
    assert memory < 2**30
    record = json.loads((out / "quality.json").read_text())
    windows = record["versions"][0]["windows"]
    assert record["rows"] == 1_000_000 and [w["labels"] for w in windows] == [10_000] * 10
