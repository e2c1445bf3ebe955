"""An A/B test of a real server's traffic, then the new version as a shadow."""

import json

import numpy as np
import pytest

from tests.monitoring.conftest import photos
from tests.support.ab_logs import write_labels
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle
from vision import cli
from vision.bundle.directory import open_bundle
from vision.monitoring.abtest.__main__ import main
from vision.serving.client import Client

REQUESTS = 400


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(directory of the models, requests of two images, their true classes).

    Version 2 is always right; version 1 gives the most frequent class a wrong name.
    """
    root = tmp_path_factory.mktemp("abtest")
    names = [f"class {i}" for i in range(10)]
    new = open_bundle(write_bundle(root / "tiny" / "2", names, model={"heat": True}))
    images = photos(2 * REQUESTS, 0)
    truth = new.probabilities_and_embeddings(images)[0].argmax(1)
    order = np.argsort(np.bincount(truth, minlength=10))
    wrong = list(names)
    wrong[order[-1]], wrong[order[0]] = names[order[0]], names[order[-1]]
    write_bundle(root / "tiny" / "1", wrong)
    return root, images.reshape(REQUESTS, 2, 8, 8, 1), [names[place] for place in truth]


def send(models, log, traffic):
    """Sends the requests to a server; returns (ids, indices, true classes) of all images."""
    root, requests, truth = models
    (root / "tiny" / "traffic.json").write_text(json.dumps(traffic))
    ids = []
    with serve(root, grpc_port=0, prediction_log=log) as live, Client(live.url) as client:
        for images in requests:
            ids += [result.id for result in client.classify(images, "tiny")]
    return ids, [0, 1] * REQUESTS, truth


def analyze(tmp_path, labels):
    write_labels(tmp_path / "labels.csv", *labels)
    flags = {"log": "log", "labels": "labels.csv", "out": "out"}
    argv = [f"--{name}={tmp_path / path}" for name, path in flags.items()]
    argv += ["--model=tiny", "--old=1", "--new=2", "--effect=0.1", "--sequential"]
    cli.run(main, ["analyze", *argv])
    return json.loads((tmp_path / "out" / "abtest.json").read_text())


def test_two_versions_that_share_the_traffic(models, tmp_path):
    labels = send(models, tmp_path / "log", {"weights": {"1": 50, "2": 50}})
    record = analyze(tmp_path, labels)
    checks = record["checks"]
    assert sum(checks["sample_ratio"]["units"]) == REQUESTS and not checks["sample_ratio"]["doubt"]
    assert record["measure"]["new"] == 1 and record["measure"]["most_in_a_unit"] == 2
    assert record["labels"] == {"labels": 2 * REQUESTS, "unmatched": 0, "blank": 0}
    assert record["verdict"]["decision"] == "ship" and record["pairs"] is None


def test_a_shadow(models, tmp_path):
    labels = send(models, tmp_path / "log", {"weights": {"1": 100}, "shadow": "2"})
    record = analyze(tmp_path, labels)
    confused = max(map(labels[2].count, set(labels[2])))
    assert record["pairs"]["images"] == 2 * REQUESTS
    assert record["pairs"]["mcnemar"]["only_new"] == confused > 0
    assert record["pairs"]["mcnemar"]["only_old"] == 0
    assert record["verdict"]["decision"] == "ship" and record["checks"] == {}
