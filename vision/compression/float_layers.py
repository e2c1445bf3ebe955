"""Chooses the layers of a quantized model that stay in float, so that it loses little accuracy."""

import pathlib
import tempfile
from collections.abc import Callable

import numpy as np

from vision.bundle.directory import Bundle
from vision.compression.int8 import CalibratedModel
from vision.errors import UserError
from vision.support.progress import Progress, waiting

BATCH = 32
SENSITIVITY_IMAGES = 128  # the first of the images, to measure each layer's sensitivity on
SHOWN = 5  # sensitive layers that are reported


def choose(
    calibrated: CalibratedModel,
    model: Bundle,
    images: np.ndarray,
    labels: np.ndarray,
    max_drop: float,
    report: Callable[[str], object] = print,
) -> tuple[tuple[str, ...], float]:
    """Chooses the layers that stay in float so that no more accuracy than allowed is lost.

    Sensitivity is the cost of a single layer in INT8 with all others in float: such models are made
    fastest, and losses that cancel each other by chance hide no layer. It is the mean
    Kullback-Leibler divergence of the probabilities from the float model's, since accuracy on few
    images hardly distinguishes layers.

    Args:
        calibrated: the model to quantize.
        model: the float32 bundle.
        images: uint8 (M, H, W, C), of the validation split.
        labels: int (M,).
        max_drop: percentage points of accuracy that may be lost.
        report: called with a line of text on the progress.

    Returns:
        (names of the layers, percentage points lost on these images; below 0 if INT8 is better).

    Raises:
        UserError: even with a single layer in INT8 more is lost.
    """
    expected = _probabilities(model.probabilities_and_embeddings, images)

    def measure_drop(float_layers):
        with waiting("comparing INT8 with float32"):
            probabilities = _quantized_probabilities(calibrated, float_layers, images)
        accuracy = (expected.argmax(1) == labels).mean()
        return 100 * float(accuracy - (probabilities.argmax(1) == labels).mean())

    drop = measure_drop(())
    if drop <= max_drop:
        return (), drop
    report(
        f"all {len(calibrated.layers)} layers in INT8 lose {drop:.2f} points; measuring each layer"
    )
    costs = sensitivity(calibrated, expected[:SENSITIVITY_IMAGES], images[:SENSITIVITY_IMAGES])
    order = sorted(costs, key=costs.__getitem__, reverse=True)
    for name in order[:SHOWN]:
        report(f"  {calibrated.layers[name]}: {costs[name]:.4f} nats")
    count = 1
    while count < len(order):
        drop = measure_drop(order[:count])
        report(f"{count} layers in float: {drop:.2f} points lost")
        if drop <= max_drop:
            return tuple(order[:count]), drop
        count += 1 + count // 3
    raise UserError(
        f"INT8 loses more than {max_drop:g} points however many layers stay in float: give more "
        "--images, another --calibration, or raise --max-drop"
    )


def sensitivity(
    calibrated: CalibratedModel, expected: np.ndarray, images: np.ndarray
) -> dict[str, float]:
    """Returns {layer: nats}: the change of the probabilities with only this layer in INT8.

    Args:
        calibrated: the model to quantize.
        expected: probabilities (N, C) of the float model.
        images: uint8 (N, H, W, C).
    """
    costs = {}
    with Progress("measuring each layer", len(calibrated.layers), "layers") as work:
        for name in work.over(calibrated.layers):
            float_layers = [layer for layer in calibrated.layers if layer != name]
            probabilities = _quantized_probabilities(calibrated, float_layers, images)
            costs[name] = _divergence(expected, probabilities)
    return costs


def _divergence(p, q):
    """Returns the mean over images of KL(p || q), nats."""
    p, q = (np.maximum(np.asarray(values, np.float64), 1e-12) for values in (p, q))
    return float((p * np.log(p / q)).sum(1).mean())


def _quantized_probabilities(calibrated, float_layers, images):
    """Returns the probabilities of an INT8 model, as ONNX Runtime computes them here."""
    from vision.export.onnx import NAME, load, save

    with tempfile.TemporaryDirectory() as folder:
        save(calibrated.model(float_layers), pathlib.Path(folder, NAME))
        return _probabilities(load(pathlib.Path(folder, NAME)), images)


def _probabilities(run, images):
    return np.concatenate([run(images[i : i + BATCH])[0] for i in range(0, len(images), BATCH)])
