"""Rollouts on a real server under load: worse versions go back, a better one gets everything."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle, write_slow_bundle
from tests.support.worse_bundles import CLASSES, DARK, write_failing_bundle, write_wrong_bundle
from vision.bundle.directory import open_bundle
from vision.serving.client import Client, ServerError

BRIGHT = 0.2  # share of the images that have a bright pixel
WINDOW = 250
PACE = ["--interval=0.5", "--settle=1.5", "--patience=120"]
RULES = ["--min-answers=120", "--min-labels=60", f"--window={WINDOW}", "--steps=20,60,100"]
REASONS = {
    "errors": "of the requests failed",
    "p99": "p99 is",
    "accuracy": "accuracy is 0.00% instead of 100.00%",
}
MOST = 400.0  # seconds that a rollout may take on a machine with other work


class Traffic:
    """Clients that ask without a pause, and say later what the right answers were.

    Attributes:
        answered: {version: requests}.
        failed: [(image is bright, the error's text)].
    """

    def __init__(self, url, labels, truth):
        self._url = url
        self._labels = labels
        self._truth = truth
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._rows = []
        self.answered = {}
        self.failed = []
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(3)]
        self._threads.append(threading.Thread(target=self._label))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, seed):
        random = np.random.default_rng(seed)
        with Client(self._url) as client:
            while not self._stop.is_set():
                is_bright = random.random() < BRIGHT
                image = random.integers(0, DARK, (8, 8, 1)).astype(np.uint8)
                image[0, 0] = 255 if is_bright else 0
                try:
                    result = client.classify(image, "pets", top_k=1)
                except ServerError as error:
                    self.failed.append((is_bright, str(error)))
                    continue
                with self._lock:
                    self.answered[result.version] = self.answered.get(result.version, 0) + 1
                    self._rows.append((result.id, image))

    def _label(self):
        """Writes the labels of all answers so far, again and again, each file a new one."""
        number = 0
        while not self._stop.wait(1.0):
            with self._lock:
                rows, self._rows = self._rows, []
            if not rows:
                continue
            right = self._truth(np.stack([image for _, image in rows]))
            lines = [
                "id,label",
                *(f"{id},{name}" for (id, _), name in zip(rows, right, strict=True)),
            ]
            hidden = self._labels / f".{number}"
            hidden.write_text("\n".join(lines) + "\n")
            os.replace(hidden, self._labels / f"{number:05}.csv")
            number += 1


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """The right classes of images: the tiny bundle's answers."""
    bundle = open_bundle(write_bundle(tmp_path_factory.mktemp("right") / "bundle", CLASSES), 1)

    def right(images):
        return [CLASSES[i] for i in bundle.probabilities_and_embeddings(images)[0].argmax(1)]

    return right


@contextlib.contextmanager
def loaded(root, truth, old, new):
    """Yields (traffic, the rollout's arguments): a server of two versions, the old one serving."""
    old(root / "models" / "pets" / "1")
    new(root / "models" / "pets" / "2")
    (root / "labels").mkdir()
    (root / "models" / "pets" / "traffic.json").write_text('{"weights": {"1": 1}}')
    options = {
        "prediction_log": root / "log",
        "prediction_minutes": 0.02,
        "prediction_files": 0,
        "drift_window": 0,
        "poll": 0.2,
        "max_batch": 4,
    }
    with serve(root / "models", **options) as live:
        argv = [
            *(f"--models={root / 'models'}", "--model=pets", "--to=2", f"--server={live.url}"),
            *(f"--out={root / 'out'}", *RULES, *PACE),
        ]
        with Traffic(live.url, root / "labels", truth) as traffic:
            yield traffic, argv


def start(argv):
    return subprocess.Popen(
        [sys.executable, "-m", "vision.monitoring.rollout", *argv],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Returns (exit code, stdout, stderr) of a rollout."""
    try:
        out, err = process.communicate(timeout=MOST)
    finally:
        process.kill()
    return process.returncode, out, err


def record_of(root):
    return json.loads((root / "out" / "rollout.json").read_text())


def weights_of(root):
    return json.loads((root / "models" / "pets" / "traffic.json").read_text())["weights"]


def check_rolled_back(root, traffic, done, guard):
    """Asserts that version 2 went back for the guard's reason, in the first step's window."""
    code, _, err = done
    assert code == 1, done
    assert REASONS[guard] in err and "was rolled back" in err and len(err.splitlines()) == 1, err
    assert weights_of(root) == {"1": 100, "2": 0}
    record = record_of(root)
    last = record["decisions"][-1]
    assert record["status"] == "rolled back" and last["action"] == "roll back"
    assert last["step"] == 0 and last["answers"] <= 2 * WINDOW, last
    broken = [reading["name"] for reading in last["readings"] if reading["p"] < 0.01]
    assert broken == [guard]
    time.sleep(1.0)  # the server follows
    before = traffic.answered["2"]
    answered = traffic.answered["1"]
    while traffic.answered["1"] < answered + 50:
        time.sleep(0.1)
    assert traffic.answered["2"] == before
    assert "Rolled back" in (root / "out" / "report.html").read_text()


def test_a_version_that_is_less_often_right_goes_back(tmp_path, truth):
    with loaded(tmp_path, truth, right, write_wrong_bundle) as (traffic, argv):
        log = [f"--log={tmp_path / 'log'}", f"--labels={tmp_path / 'labels'}"]
        done = finish(start([*argv, *log, "--guards=errors,p99,accuracy", "--p99=50"]))
        check_rolled_back(tmp_path, traffic, done, "accuracy")
    assert traffic.failed == []


def test_a_version_that_is_slower_goes_back(tmp_path, truth):
    with loaded(tmp_path, truth, right, slow) as (traffic, argv):
        done = finish(start([*argv, "--p99=1.5"]))
        check_rolled_back(tmp_path, traffic, done, "p99")
    assert traffic.failed == []


def test_a_version_that_fails_goes_back(tmp_path, truth):
    with loaded(tmp_path, truth, right, write_failing_bundle) as (traffic, argv):
        done = finish(start([*argv, "--p99=50"]))
        check_rolled_back(tmp_path, traffic, done, "errors")
    # of the images that the version cannot take, and of no others
    assert traffic.failed and {is_bright for is_bright, _ in traffic.failed} == {True}


def test_a_better_version_gets_everything_though_its_controller_is_killed(tmp_path, truth):
    with loaded(tmp_path, truth, write_wrong_bundle, right) as (traffic, argv):
        log = [f"--log={tmp_path / 'log'}", f"--labels={tmp_path / 'labels'}"]
        argv = [*argv, *log, "--guards=errors,p99,accuracy", "--p99=50"]
        first = start(argv)
        deadline = time.monotonic() + MOST
        while not (tmp_path / "out" / "rollout.json").exists() or record_of(tmp_path)["step"] < 1:
            assert first.poll() is None and time.monotonic() < deadline, first.communicate()
            time.sleep(0.2)
        second = finish(start(argv))  # beside the first
        assert second[0] == 2 and "in use by another process" in second[2], second
        first.send_signal(signal.SIGKILL)
        first.communicate()
        killed = record_of(tmp_path)
        assert killed["status"] == "running" and weights_of(tmp_path) == {"1": 40, "2": 60}
        code, out, err = finish(start(argv))
        assert code == 0, (out, err)
        assert out.startswith("continues at 60 % of the traffic")
        assert weights_of(tmp_path) == {"1": 0, "2": 100}
        record = record_of(tmp_path)
        actions = [(d["step"], d["action"]) for d in record["decisions"]]
        changes = [change for change in actions if change[1] != "wait"]
        assert changes == [(0, "raise"), (1, "raise"), (2, "finish")]
        assert record["decisions"][: len(killed["decisions"]) - 1] == killed["decisions"][:-1]
        again = finish(start(argv))
        assert again[0] == 0 and "has all of the traffic" in again[1]
    assert traffic.failed == []


def right(directory):
    return write_bundle(directory, CLASSES)


def slow(directory):
    return write_slow_bundle(directory, depth=600)
