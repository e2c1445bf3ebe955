"""Whether what was written computes what JAX does."""

import numpy as np


def compare(program, run, images):
    """Returns the largest difference between JAX and another runtime, of one image and of all at once.

    Args:
        program: a `vision.export.program.Program`.
        run: `run(images) -> (probabilities, embedding)`, as a format's `load` returns.
        images: uint8 (N, image_size, image_size, channels), N at least 1.

    Returns:
        The largest absolute difference of a probability, or of an embedding in units of its largest number, whichever
        is more. Not a number where either is not.
    """
    expected = program(images)
    scales = (1.0, max(float(np.abs(expected[1]).max()), np.finfo(np.float32).tiny))
    worst = []
    for count in sorted({1, len(images)}):
        for ours, theirs, scale in zip(expected, run(images[:count]), scales, strict=True):
            if theirs.shape != ours[:count].shape:
                raise ValueError(f"it returns {theirs.shape} where JAX returns {ours[:count].shape}")
            worst.append(np.abs(theirs.astype(np.float64) - ours[:count]).max() / scale)
    return float(np.max(worst))


def changed(program, run, images):
    """Returns the share of images, in [0, 1], whose most probable class is another than in JAX."""
    return float((program(images)[0].argmax(1) != run(images)[0].argmax(1)).mean())
