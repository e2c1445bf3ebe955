"""How long models take, side by side: in turn, so that whatever else the machine does falls on all
of them alike.

Each turn begins with a rest and a call that does not count. ONNX Runtime's threads wait for more
work by spinning, for some 30 ms: at once after another model, EfficientNet-Lite0 took 79 ms in
place of 31 on two cores, and its INT8 model 48 in place of 16.
"""

import pathlib
import tempfile
import time

import numpy as np

from vision.errors import UserError
from vision.support.processes import cores

# rounds
LEAST = 10
MOST = 200
# seconds: until other models' threads sleep; of calls in a turn, at least
REST = 0.05
TURN = 0.02
BATCH = 32  # images at a time, where nobody says


def compare(runs, images, seconds=5.0):
    """Returns how long each of some models takes.

    Args:
        runs: {name: function of images}, the first of which the others are compared to.
        images: what they are given, uint8 (B, H, W, C).
        seconds: to spend, about; each has at least `LEAST` turns.

    Returns:
        {"batch": B, "cores": int, "rounds": int, "models": {name: {"p25", "p50", "p99",
        milliseconds, "speedup", how many times as fast as the first, the median over the rounds}}}.
    """
    for run in runs.values():
        run(images)
    # of each model, the turns' lists of milliseconds
    took = {name: [] for name in runs}
    begun = time.perf_counter()
    rounds = 0
    while rounds < LEAST or (rounds < MOST and time.perf_counter() - begun < seconds):
        # whoever follows another is not always the same one
        for name in list(runs)[:: -1 if rounds % 2 else 1]:
            took[name].append(_turn(runs[name], images))
        rounds += 1
    medians = {name: np.array([np.median(turn) for turn in turns]) for name, turns in took.items()}
    first = next(iter(medians.values()))
    found = {}
    for name, turns in took.items():
        p25, p50, p99 = np.quantile(np.concatenate(turns), (0.25, 0.5, 0.99)).tolist()
        found[name] = {
            "p25": p25,
            "p50": p50,
            "p99": p99,
            "speedup": float(np.median(first / medians[name])),
        }
    return {"batch": len(images), "cores": cores(), "rounds": rounds, "models": found}


def _turn(run, images):
    """Returns the milliseconds of each of some calls in a row."""
    time.sleep(REST)
    run(images)
    took = []
    begun = time.perf_counter()
    while not took or time.perf_counter() - begun < TURN:
        start = time.perf_counter()
        run(images)
        took.append(1000 * (time.perf_counter() - start))
    return took


class Beside:
    """How long smaller classifiers take in ONNX Runtime, each beside the original.

    Args:
        original: a `vision.inference.Classifier`.
        batch: images at a time.

    Raises:
        UserError: what exporting needs is not installed; ONNX cannot express the model.
    """

    def __init__(self, original, batch=BATCH):
        shape = (batch, original.image_size, original.image_size, original.channels)
        self._images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self._original = exported(original)

    def __call__(self, classifier):
        """Returns {"batch", "cores", "rounds", "original" and "pruned", milliseconds, "share"} of
        one classifier.

        The times are lower quartiles, for what else the machine does only makes a round longer; the
        share is their ratio: what is left of the original's.
        """
        found = compare({"original": self._original, "pruned": exported(classifier)}, self._images)
        times = {name: own["p25"] for name, own in found.pop("models").items()}
        return found | times | {"share": times["pruned"] / times["original"]}


def exported(classifier):
    """Returns `run(images)` of a `vision.inference.Classifier`, exported for any number of images,
    in ONNX Runtime.

    Raises:
        UserError: what exporting needs is not installed; ONNX cannot express the model.
    """
    try:
        from vision.export import onnx
        from vision.export.program import served

        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, onnx.NAME)
            onnx.write(served(classifier), path)
            return onnx.load(path)
    except ImportError as error:
        raise UserError(
            f"latency is that of ONNX Runtime, which needs more: pip install 'vision[export]' ({error})"
        ) from error
