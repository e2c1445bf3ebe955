"""How long models take, side by side: in turn, so that whatever else the machine does falls on all of them alike."""

import pathlib
import tempfile
import time

import numpy as np

from vision.data.processes import cores
from vision.errors import UserError

LEAST, MOST = 10, 200  # rounds
BATCH = 32  # images at a time, where nobody says


def compare(runs, images, seconds=5.0):
    """Returns how long each of some models takes.

    Args:
        runs: {name: function of images}, the first of which the others are compared to.
        images: what they are given, uint8 (B, H, W, C).
        seconds: to spend, about; each runs at least `LEAST` times.

    Returns:
        {"batch": B, "cores": int, "rounds": int, "models": {name: {"p25", "p50", "p99", milliseconds, "speedup", how
        many times as fast as the first, the median over the rounds}}}.
    """
    for run in runs.values():
        run(images)
    took, begun = [], time.perf_counter()
    while len(took) < LEAST or (len(took) < MOST and time.perf_counter() - begun < seconds):
        order = list(runs)[:: -1 if len(took) % 2 else 1]  # whoever follows another is not always the same one
        found = {name: _time(runs[name], images) for name in order}
        took.append([found[name] for name in runs])
    took = 1000 * np.array(took)
    found = {
        name: {
            "p25": float(np.quantile(own, 0.25)),
            "p50": float(np.median(own)),
            "p99": float(np.quantile(own, 0.99)),
            "speedup": float(np.median(took[:, 0] / own)),
        }
        for name, own in zip(runs, took.T, strict=True)
    }
    return {"batch": len(images), "cores": cores(), "rounds": len(took), "models": found}


def _time(run, images):
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start


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
        """Returns {"batch", "cores", "rounds", "original" and "pruned", milliseconds, "share"} of one classifier.

        The times are lower quartiles, for what else the machine does only makes a round longer; the share is their
        ratio: what is left of the original's.
        """
        found = compare({"original": self._original, "pruned": exported(classifier)}, self._images)
        times = {name: own["p25"] for name, own in found.pop("models").items()}
        return found | times | {"share": times["pruned"] / times["original"]}


def exported(classifier):
    """Returns `run(images)` of a `vision.inference.Classifier`, exported for any number of images, in ONNX Runtime.

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
