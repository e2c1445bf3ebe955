"""A window: what is kept of some images and answers, whose number may be any."""

import math

import numpy as np

from vision.reference.features import NAMES, count
from vision.reference.sketch import DIMENSIONS
from vision.reference.statistics import Reference

SAMPLE = 1000  # sketches, drawn at random from all


class Window:
    """Counts images in the bins of a reference; its memory does not grow with them.

    Args:
        reference: the reference.
        seed: of the random sample of sketches.

    Attributes:
        rows: images so far.
        counts: {feature: int64 (K,)}, in the reference's bins; images whose value is unknown are in
            none.
        classes: int64 (C,), images of each predicted class.
        sketches: float16 (n, 16), a random sample of at most `SAMPLE` images.
        start, end: seconds since the epoch of the earliest and the latest image; inf and -inf if
            there are none.
    """

    def __init__(self, reference: Reference, seed: int = 0):
        self._reference = reference
        self._random = np.random.default_rng(seed)
        self._keys = np.empty(0)  # random ones; the images with the smallest are the sample
        self.rows = 0
        self.counts = {
            name: np.zeros(len(feature.counts), np.int64)
            for name, feature in reference.features.items()
        }
        self.classes = np.zeros(len(reference.class_counts), np.int64)
        self.sketches = np.empty((0, DIMENSIONS), np.float16)
        self.start = math.inf
        self.end = -math.inf

    def add(
        self, values: np.ndarray, classes: np.ndarray, sketches: np.ndarray, seconds: np.ndarray
    ) -> None:
        """Adds images.

        Args:
            values: float32 (N, 9), the features `vision.reference.features.NAMES`.
            classes: integers (N,), the predicted classes.
            sketches: float16 (N, 16).
            seconds: float64 (N,), since the epoch.
        """
        if not len(values):
            return
        self.rows += len(values)
        for column, name in enumerate(NAMES):
            edges = self._reference.features[name].edges
            self.counts[name] += count(values[:, column], edges)
        self.classes += np.bincount(classes, minlength=len(self.classes))
        self.start = min(self.start, float(seconds.min()))
        self.end = max(self.end, float(seconds.max()))
        self._sample(sketches)

    def _sample(self, sketches):
        keys = self._random.random(len(sketches))
        if len(self._keys) == SAMPLE:
            is_smaller = keys < self._keys.max()
            keys = keys[is_smaller]
            sketches = sketches[is_smaller]
        self._keys = np.append(self._keys, keys)
        self.sketches = np.concatenate([self.sketches, sketches])
        if len(self._keys) > SAMPLE:
            kept = np.argpartition(self._keys, SAMPLE)[:SAMPLE]
            self._keys = self._keys[kept]
            self.sketches = self.sketches[kept]
