"""Which of the images that are worth labeling: a quota for each class, no copies, as different from
each other as possible.

The reasons take turns. Of the ten images that are most worth it for a reason, the one is taken that
is farthest from all that were taken; of those that are far from the reference, the one that is
farthest from the reference and from what was taken: k-center greedy (Sener and Savarese 2018,
arXiv:1708.00489, algorithm 1). Images of earlier collections count as taken. A score alone would
choose many images of one kind (Citovsky et al. 2021, arXiv:2107.14263).
"""

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping

import numpy as np

from vision.monitoring.labeling.reasons import NONE, RANDOM, REASONS, nearest

SHORTLIST = 10  # images of which the most different one is taken
WIDER = 2  # images that are looked at for each that is wanted, of each reason


@dataclasses.dataclass(frozen=True)
class Quota:
    """How many images are chosen.

    Attributes:
        count: in all, at most.
        per_class: of a predicted class.
        strict: whether a class never gets more; otherwise it does if nothing else is left, as when
            a model that has drifted gives one class to nearly all.
    """

    count: int
    per_class: int
    strict: bool


def quota(count: int, classes: np.ndarray, per_class: int = 0) -> Quota:
    """Returns the quota of a class: what the user asks for, or twice an equal share, not strictly.

    Args:
        count: images to choose.
        classes: (N,), the predicted classes of the candidates.
        per_class: what the user asks for; 0 for nothing.
    """
    share = math.ceil(2 * count / max(len(np.unique(classes)), 1))
    return Quota(count, per_class or share, bool(per_class))


def pool(
    scores: Mapping[str, np.ndarray], classes: np.ndarray, limits: Quota, seed: int = 0
) -> np.ndarray:
    """Returns the places of the images to look at, int64 (M,), sorted: copies among them are
    searched for, which takes milliseconds for each.

    Args:
        scores: {reason: (N,)}, see `vision.monitoring.labeling.reasons`; all that are drawn at
            random are in the pool.
        classes: integers (N,), the predicted classes.
        limits: how many are to be chosen.
        seed: orders images of equal score.
    """
    order = np.random.default_rng(seed).permutation(len(classes))
    chosen: set[int] = set()
    for reason, values in scores.items():
        if reason == RANDOM:
            chosen.update(np.flatnonzero(values > NONE).tolist())
            continue
        ordered = order[np.argsort(-values[order], kind="stable")]
        ordered = ordered[values[ordered] > NONE]
        within = _is_within(classes[ordered], WIDER * limits.per_class)
        beyond = ordered[:0] if limits.strict else ordered[~within]
        best = np.concatenate([ordered[within], beyond])[: WIDER * limits.count]
        chosen.update(best.tolist())
    return np.array(sorted(chosen), np.int64)


def _is_within(classes, most):
    """Returns bool (N,), which items are among the first `most` of their class."""
    order = np.argsort(classes, kind="stable")
    _, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
    ranks = np.empty(len(classes), np.int64)
    ranks[order] = np.arange(len(classes)) - np.repeat(starts, counts)
    return ranks < most


@dataclasses.dataclass
class Pool:
    """M images to choose from.

    Attributes:
        scores: {reason: float64 (M,)}; "random" may be missing.
        classes: integers (M,), the predicted classes.
        sketches: (M, 16).
        copies: {place: places of its near duplicates}.
        distances: float64 (M,), to the nearest sketch of the reference.
        taken: (E, 16), sketches of images that were chosen earlier; None if none were.
    """

    scores: Mapping[str, np.ndarray]
    classes: np.ndarray
    sketches: np.ndarray
    copies: Mapping[int, Collection[int]]
    distances: np.ndarray
    taken: np.ndarray | None = None


def choose(images: Pool, limits: Quota, seed: int = 0) -> list[int]:
    """Returns the places of the chosen images, in the order of choice.

    Those that are drawn at random come first, whatever their class.

    Args:
        images: what to choose from.
        limits: how many.
        seed: orders images of equal score.
    """
    chooser = _Chooser(images, limits, seed)
    if RANDOM in images.scores:
        chooser.take_all(np.flatnonzero(images.scores[RANDOM] > NONE))
    turns = 0  # in a row without an image
    for reason in itertools.cycle(REASONS):
        if turns == len(REASONS):
            if not chooser.lift():
                break
            turns = 0
        if len(chooser.chosen) == limits.count:
            break
        turns = 0 if chooser.take(reason) else turns + 1
    return chooser.chosen


class _Chooser:
    """Takes images one after the other.

    Images of equal score have a drawn order. Those of a reason are sorted once: one that cannot be
    taken now, since a copy is or its class has enough, cannot be later either, until the quota is
    lifted.

    Attributes:
        chosen: their places.
    """

    def __init__(self, images, limits, seed):
        self._images = images
        self._order = np.random.default_rng(seed).permutation(len(images.classes))
        self._is_free = np.ones(len(images.classes), bool)
        self._left = np.full(int(images.classes.max(initial=0)) + 1, limits.per_class)
        self._is_bound = True
        self._is_strict = limits.strict
        self._sketches = np.asarray(images.sketches, np.float64)  # once, not for each image
        self._to_chosen = np.full(len(images.classes), np.inf)
        if images.taken is not None:
            self._to_chosen = nearest(self._sketches, images.taken)
        self.chosen = []
        self._rank()

    def lift(self):
        """Lets classes get more than their quota; returns whether that changes anything."""
        was_bound = self._is_bound and not self._is_strict
        self._is_bound = self._is_strict
        if was_bound:
            self._rank()
        return was_bound

    def take_all(self, places):
        """Takes all of some images, except copies of one another."""
        for place in places.tolist():
            if self._is_free[place]:
                self._add(place)

    def take(self, reason):
        """Takes an image for a reason; returns whether there is one."""
        if reason == "far":
            self._far = rows = self._far[self._is_allowed(self._far)]
            distance = np.minimum(self._images.distances[rows], self._to_chosen[rows])
        else:
            rows = self._ranked[reason].first(self._is_allowed)
            distance = self._to_chosen[rows]
        if not len(rows):
            return False
        self._add(int(rows[np.argmax(distance)]))
        return True

    def _rank(self):
        """Sorts the images of each reason."""
        self._ranked = {}
        for reason in REASONS:
            values = self._images.scores[reason]
            rows = self._order[values[self._order] > NONE]
            if reason == "far":
                self._far = rows
            else:
                self._ranked[reason] = _Ranked(rows[np.argsort(-values[rows], kind="stable")])

    def _is_allowed(self, rows):
        """Returns bool (N,), which images may be taken."""
        is_allowed = self._is_free[rows]
        if self._is_bound:
            is_allowed &= self._left[self._images.classes[rows]] > 0
        return is_allowed

    def _add(self, place):
        images = self._images
        self.chosen.append(place)
        self._is_free[[place, *images.copies.get(place, ())]] = False
        self._left[images.classes[place]] -= 1
        distance = nearest(self._sketches, self._sketches[place : place + 1])
        self._to_chosen = np.minimum(self._to_chosen, distance)


class _Ranked:
    """The images of a reason, the best first; those that may not be taken are passed once.

    Args:
        rows: int64 (N,), their places.
    """

    def __init__(self, rows):
        self._rows = rows
        self._next = 0  # place of the first one that was not looked at
        self._first = rows[:0]

    def first(self, is_allowed):
        """Returns the first `SHORTLIST` places of which a function says that they are allowed."""
        self._first = self._first[is_allowed(self._first)]
        while len(self._first) < SHORTLIST and self._next < len(self._rows):
            end = self._next + SHORTLIST - len(self._first)
            more = self._rows[self._next : end]
            self._first = np.concatenate([self._first, more[is_allowed(more)]])
            self._next = end
        return self._first
