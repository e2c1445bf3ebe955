"""Whether what was written computes what JAX does."""

import numpy as np


def measure(program, run, images):
    """Returns how far another runtime is from JAX, of one image and of all at once.

    Args:
        program: a `vision.export.program.Program`.
        run: `run(images) -> (probabilities, embedding)`, as a format's `load` returns.
        images: uint8 (N, image_size, image_size, channels), N at least 1.

    Returns:
        {"largest_difference": the largest absolute difference of a probability, or of an embedding
        in units of its largest number, whichever is more, not a number where either is not;
        "classes_changed": the share of images, in [0, 1], whose most probable class is another than
        in JAX}.
    """
    expected = program(images)
    scales = (1.0, max(float(np.abs(expected[1]).max()), np.finfo(np.float32).tiny))
    worst = []
    for count in sorted({1, len(images)}):
        found = run(images[:count])
        for ours, theirs, scale in zip(expected, found, scales, strict=True):
            if theirs.shape != ours[:count].shape:
                raise ValueError(
                    f"it returns {theirs.shape} where JAX returns {ours[:count].shape}"
                )
            worst.append(np.abs(theirs.astype(np.float64) - ours[:count]).max() / scale)
    changed = (expected[0].argmax(1) != found[0].argmax(1)).mean()
    return {"largest_difference": float(np.max(worst)), "classes_changed": float(changed)}


def compare(program, run, images):
    """Returns the largest difference alone, as `measure` does."""
    return measure(program, run, images)["largest_difference"]
