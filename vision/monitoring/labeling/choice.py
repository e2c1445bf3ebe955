"""Which of the images that are worth labeling: a quota for each class, no copies, as different from
each other as possible.

The reasons take turns. Of the ten images that are most worth it for a reason, the one is taken that
is farthest from all that were taken; of those that are far from the reference, the one that is
farthest from the reference and from what was taken: k-center greedy (Sener and Savarese 2018,
arXiv:1708.00489, algorithm 1). A score alone would choose many images of one kind (Citovsky et al.
2021, arXiv:2107.14263).
"""

import dataclasses
import math
from collections.abc import Collection, Mapping

import numpy as np

from vision.monitoring.labeling.reasons import NONE, REASONS, nearest

SHORTLIST = 10  # images of which the most different one is taken
WIDER = 2  # images that are looked at for each that is wanted, of each reason


def quota(count: int, classes: np.ndarray, per_class: int = 0) -> int:
    """Returns how many images of a predicted class may be chosen.

    Args:
        count: images to choose.
        classes: (N,), the predicted classes of the candidates.
        per_class: what the user asks for; 0 for twice an equal share.
    """
    return per_class or max(1, math.ceil(2 * count / max(len(np.unique(classes)), 1)))


def pool(
    scores: Mapping[str, np.ndarray], classes: np.ndarray, count: int, per_class: int, seed: int = 0
) -> np.ndarray:
    """Returns the places of the images to look at, int64 (M,), sorted: copies among them are
    searched for, which takes milliseconds for each.

    Args:
        scores: {reason: (N,)}, see `vision.monitoring.labeling.reasons.scores`.
        classes: integers (N,), the predicted classes.
        count: images to choose.
        per_class: how many of a predicted class, at most.
        seed: orders images of equal score.
    """
    order = np.random.default_rng(seed).permutation(len(classes))
    chosen: set[int] = set()
    for values in scores.values():
        ordered = order[np.argsort(-values[order], kind="stable")]
        left = np.full(int(classes.max(initial=0)) + 1, WIDER * per_class)
        taken = 0
        for place in ordered[values[ordered] > NONE]:
            if taken == WIDER * count:
                break
            if left[classes[place]]:
                left[classes[place]] -= 1
                taken += 1
                chosen.add(int(place))
    return np.array(sorted(chosen), np.int64)


@dataclasses.dataclass
class Pool:
    """M images to choose from.

    Attributes:
        scores: {reason: float64 (M,)}.
        classes: integers (M,), the predicted classes.
        sketches: (M, 16).
        copies: {place: places of its near duplicates}.
        distances: float64 (M,), to the nearest sketch of the reference.
    """

    scores: Mapping[str, np.ndarray]
    classes: np.ndarray
    sketches: np.ndarray
    copies: Mapping[int, Collection[int]]
    distances: np.ndarray


def choose(images: Pool, count: int, per_class: int, seed: int = 0) -> list[int]:
    """Returns the places of the chosen images, at most `count`, in the order of choice.

    Args:
        images: what to choose from.
        count: images to choose.
        per_class: how many of a predicted class, at most.
        seed: orders images of equal score.
    """
    chooser = _Chooser(images, per_class, seed)
    while len(chooser.chosen) < count:
        before = len(chooser.chosen)
        for reason in REASONS[: count - before]:
            chooser.take(reason)
        if len(chooser.chosen) == before:
            break
    return chooser.chosen


class _Chooser:
    """Takes images one after the other.

    Attributes:
        chosen: their places.
    """

    def __init__(self, images, per_class, seed):
        self._images = images
        self._order = np.random.default_rng(seed).permutation(len(images.classes))
        self._is_free = np.ones(len(images.classes), bool)
        self._left = np.full(int(images.classes.max(initial=0)) + 1, per_class)
        self._to_chosen = np.full(len(images.classes), np.inf)
        self.chosen = []

    def take(self, reason):
        """Takes an image for a reason, if there is one."""
        images = self._images
        values = images.scores[reason]
        rows = self._order[(self._is_free & (values > NONE))[self._order]]
        if not len(rows):
            return
        if reason == "far":
            distance = np.minimum(images.distances, self._to_chosen)
        else:
            rows = rows[np.argsort(-values[rows], kind="stable")[:SHORTLIST]]
            distance = self._to_chosen
        self._add(int(rows[np.argmax(distance[rows])]))

    def _add(self, place):
        images = self._images
        self.chosen.append(place)
        self._is_free[[place, *images.copies.get(place, ())]] = False
        label = images.classes[place]
        self._left[label] -= 1
        if not self._left[label]:
            self._is_free &= images.classes != label
        distance = nearest(images.sketches, images.sketches[place : place + 1])
        self._to_chosen = np.minimum(self._to_chosen, distance)
