"""Why an image is worth labeling: four reasons, each with a score by which images are ordered.

disagree    another version, which answered the same request or shadowed it, gave another class
far         its sketch is farther from those of the reference than 95 % of these are from each other
drifted     it looks as images do that have become more common in a window that alarms, or as none
            of the reference
uncertain   its entropy is higher than that of 90 % of the reference

Besides, images may be drawn at random, whatever they are: "random". If all of the traffic has
changed, they teach more (experiments/collect), and only of them an accuracy is not too low.

The log has the entropy of all probabilities and the highest of them, not the second highest, so
there is no margin. With two classes both order images alike.
"""

import numpy as np

from vision.monitoring.labeling.candidates import Candidates, Gathered
from vision.reference import distances
from vision.reference.features import NAMES
from vision.reference.statistics import Reference

REASONS = ("disagree", "far", "drifted", "uncertain")
RANDOM = "random"
FAR = 0.95  # share of the reference's sketches that are nearer to their neighbor
UNSURE = 0.9  # share of the reference's images whose entropy is lower
TWICE = np.log(2)  # an image counts as drifted if its like is twice as common as before
NONE = -np.inf  # the score of a reason that does not hold


def scores(gathered: Gathered) -> dict[str, np.ndarray]:
    """Returns {reason: float64 (N,)}: the higher, the more worth it; -inf if it does not hold."""
    candidates = gathered.candidates
    return {
        "disagree": _disagreement(candidates),
        "far": _distance(candidates.rows.sketches, gathered.reference.sample),
        "drifted": _drift(gathered),
        "uncertain": _entropy(candidates.rows.values, gathered.reference),
    }


def nearest(points: np.ndarray, others: np.ndarray, leave_out: bool = False) -> np.ndarray:
    """Returns the Euclidean distance of each point to the nearest of others, float64 (N,).

    Args:
        points: (N, D).
        others: (M, D).
        leave_out: whether points and others are the same, and each point's own is not its neighbor.
    """
    points = np.asarray(points, np.float64)
    others = np.asarray(others, np.float64)
    if leave_out and len(points) < 2:
        return np.full(len(points), np.inf)
    result = np.empty(len(points))
    step = max(1, 4_000_000 // max(len(others), 1))
    for start in range(0, len(points), step):
        part = points[start : start + step]
        squared = (part**2).sum(1)[:, None] + (others**2).sum(1) - 2 * part @ others.T
        if leave_out:
            rows = np.arange(len(part))
            squared[rows, start + rows] = np.inf
        result[start : start + step] = np.sqrt(np.maximum(squared.min(1, initial=np.inf), 0))
    return result


def _disagreement(candidates: Candidates) -> np.ndarray:
    """The surer both versions are, the higher: if one is unsure, "uncertain" is a reason too."""
    values = np.full(len(candidates), NONE)
    confidence = candidates.rows.values[:, NAMES.index("confidence")]
    for place, other in candidates.others.items():
        values[place] = confidence[place] + other.confidence
    return values


def _distance(sketches: np.ndarray, sample: np.ndarray) -> np.ndarray:
    own = nearest(sample, sample, leave_out=True)
    limit = np.quantile(own, FAR)
    distance = nearest(sketches, sample)
    return np.where(distance > limit, distance, NONE)


def _entropy(values: np.ndarray, reference: Reference) -> np.ndarray:
    """The limit is the lowest edge of the reference's bins below which its share of images lies."""
    feature = reference.features["entropy"]
    shares = np.cumsum(feature.counts)[:-1] / feature.counts.sum()
    place = min(int(np.searchsorted(shares, UNSURE)), len(feature.edges) - 1)
    entropy = values[:, NAMES.index("entropy")].astype(np.float64)
    return np.where(entropy > feature.edges[place], entropy, NONE)


def _drift(gathered: Gathered) -> np.ndarray:
    """The sum of two: how much more common images like it are in its window, as a logarithm, over
    the features that alarm; and the number of features whose value no image of the reference has.
    """
    values = gathered.candidates.rows.values
    classes = gathered.candidates.rows.classes
    total = np.zeros(len(values))
    holds = np.zeros(len(values), bool)
    for column, name in enumerate(NAMES):
        feature = gathered.reference.features[name]
        places = np.searchsorted(feature.edges, values[:, column])
        is_outside = (places == 0) | (places == len(feature.edges))
        is_outside &= ~np.isnan(values[:, column])
        total += is_outside
        holds |= is_outside
    for number, (slot, names) in gathered.alarms.items():
        rows = np.flatnonzero(gathered.candidates.windows == number)
        growth = np.zeros(len(rows))
        for name in names:
            if name in NAMES:
                column = values[rows, NAMES.index(name)]
                growth += _growth(gathered.reference, slot, name, column)
            elif name == "class":
                growth += _log_ratio(slot.window.classes, gathered.reference.class_counts)[
                    classes[rows]
                ]
        total[rows] += np.maximum(growth, 0)
        holds[rows[growth >= TWICE]] = True
    return np.where(holds, total, NONE)


def _growth(reference, slot, name, values):
    """Returns (n,), the logarithm of how much more common each value's bin has become."""
    edges = reference.features[name].edges
    ratio = _log_ratio(slot.window.counts[name], reference.features[name].counts)
    growth = ratio[np.searchsorted(edges, values)]
    return np.where(np.isnan(values), 0, growth)


def _log_ratio(now, before):
    return np.log(distances.smoothed(now) / distances.smoothed(before))
