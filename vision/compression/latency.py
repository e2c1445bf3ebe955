"""Measures how long models take, side by side.

The models take turns, so that other load on the machine affects all of them alike. Each turn begins
with a pause and a call that does not count. ONNX Runtime's threads wait for more work by spinning,
for some 30 ms: right after another model, EfficientNet-Lite0 took 79 ms instead of 31 on two cores,
and its INT8 model 48 instead of 16.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vision.inference import Classifier
from vision.support.extras import require
from vision.support.processes import cores

MIN_ROUNDS = 10
MAX_ROUNDS = 200
PAUSE = 0.05  # seconds until other models' threads sleep
TURN = 0.02  # seconds of calls in a turn, at least
BATCH = 32  # default batch size


def compare(
    runs: Mapping[str, Callable], images: np.ndarray, seconds: float = 5.0
) -> dict[str, Any]:
    """Returns how long each of some models takes.

    Args:
        runs: {name: function of images}; the others are compared to the first.
        images: their argument, uint8 (B, H, W, C).
        seconds: approximate duration; each model has at least `MIN_ROUNDS` turns.

    Returns:
        {"batch": B, "cores": int, "rounds": int, "models": {name: {"p25", "p50", "p99":
        milliseconds, "speedup": how many times as fast as the first, the median over the rounds}}}.
    """
    for run in runs.values():
        run(images)
    times: dict[str, list[list[float]]] = {name: [] for name in runs}  # milliseconds, by turn
    start = time.perf_counter()
    rounds = 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() - start < seconds):
        # alternately in both directions, so that no model always follows the same one
        for name in list(runs)[:: -1 if rounds % 2 else 1]:
            times[name].append(_turn(runs[name], images))
        rounds += 1
    medians = {name: np.array([np.median(turn) for turn in turns]) for name, turns in times.items()}
    first = next(iter(medians.values()))
    models = {}
    for name, turns in times.items():
        p25, p50, p99 = np.quantile(np.concatenate(turns), (0.25, 0.5, 0.99)).tolist()
        speedup = float(np.median(first / medians[name]))
        models[name] = {"p25": p25, "p50": p50, "p99": p99, "speedup": speedup}
    return {"batch": len(images), "cores": cores(), "rounds": rounds, "models": models}


def _turn(run, images):
    """Returns the milliseconds of each of some consecutive calls."""
    time.sleep(PAUSE)
    run(images)
    times = []
    turn_start = time.perf_counter()
    while not times or time.perf_counter() - turn_start < TURN:
        start = time.perf_counter()
        run(images)
        times.append(1000 * (time.perf_counter() - start))
    return times


class RelativeLatency:
    """Measures the latency of smaller classifiers in ONNX Runtime, beside the original's.

    Args:
        original: the classifier to compare with.
        batch: images in a batch.

    Raises:
        UserError: packages for exporting are not installed; ONNX cannot express the model.
    """

    def __init__(self, original: Classifier, batch: int = BATCH):
        shape = (batch, original.image_size, original.image_size, original.channels)
        self._images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self._original = exported(original)

    def __call__(self, classifier: Classifier) -> dict[str, Any]:
        """Returns {"batch", "cores", "rounds", "original", "pruned", "share"} of a classifier.

        "original" and "pruned" are milliseconds, lower quartiles, since other load on the machine
        can only make a round longer; "share" is the ratio of the pruned to the original.
        """
        runs = {"original": self._original, "pruned": exported(classifier)}
        result = compare(runs, self._images)
        times = {name: model["p25"] for name, model in result.pop("models").items()}
        return result | times | {"share": times["pruned"] / times["original"]}


def exported(classifier: Classifier) -> Callable:
    """Returns `run(images)` of a classifier, exported to ONNX for any number of images.

    Raises:
        UserError: packages for exporting are not installed; ONNX cannot express the model.
    """
    require("latency in ONNX Runtime", "export", only=("jax2onnx", "onnx", "onnxruntime"))
    from vision.export import onnx
    from vision.export.program import served

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, onnx.NAME)
        onnx.write(served(classifier), path)
        return onnx.load(path)
