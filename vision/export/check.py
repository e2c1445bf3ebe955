"""Compares an exported model's results with JAX's."""

from collections.abc import Callable

import numpy as np

from vision.export.program import Program


def measure(program: Program, run: Callable, images: np.ndarray) -> dict[str, float]:
    """Returns how far another runtime is from JAX, for one image and for all at once.

    Args:
        program: the served model.
        run: `run(images) -> (probabilities, embeddings)`, as a format's `load` returns.
        images: uint8 (N, image_size, image_size, channels), N at least 1.

    Returns:
        {"largest_difference": the larger of the largest absolute difference of a probability, and
        that of an embedding relative to its largest absolute value; NaN if either is.
        "classes_changed": the share of images, in [0, 1], whose most probable class differs from
        JAX's}.

    Raises:
        ValueError: the shapes of the results differ.
    """
    expected = program(images)
    scales = (1.0, max(float(np.abs(expected[1]).max()), np.finfo(np.float32).tiny))
    largest = []
    for count in sorted({1, len(images)}):
        actual = run(images[:count])
        for ours, theirs, scale in zip(expected, actual, scales, strict=True):
            if theirs.shape != ours[:count].shape:
                raise ValueError(f"it returns {theirs.shape}, but JAX returns {ours[:count].shape}")
            largest.append(np.abs(theirs.astype(np.float64) - ours[:count]).max() / scale)
    changed = (expected[0].argmax(1) != actual[0].argmax(1)).mean()
    return {"largest_difference": float(np.max(largest)), "classes_changed": float(changed)}


def compare(program: Program, run: Callable, images: np.ndarray) -> float:
    """Returns only the largest difference of `measure`."""
    return measure(program, run, images)["largest_difference"]
