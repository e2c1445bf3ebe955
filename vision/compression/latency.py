"""How long models take, side by side: in turn, so that whatever else the machine does falls on all of them alike."""

import time

import numpy as np

from vision.data.processes import cores

LEAST, MOST = 10, 200  # rounds


def compare(runs, images, seconds=5.0):
    """Returns how long each of some models takes.

    Args:
        runs: {name: function of images}, the first of which the others are compared to.
        images: what they are given, uint8 (B, H, W, C).
        seconds: to spend, about; each runs at least `LEAST` times.

    Returns:
        {"batch": B, "cores": int, "rounds": int, "models": {name: {"p50", "p99", milliseconds, "speedup", how many
        times as fast as the first, the median over the rounds}}}.
    """
    for run in runs.values():
        run(images)
    took, begun = [], time.perf_counter()
    while len(took) < LEAST or (len(took) < MOST and time.perf_counter() - begun < seconds):
        took.append([_time(run, images) for run in runs.values()])
    took = 1000 * np.array(took)
    found = {
        name: {
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
