"""Whether a window has drifted: distances, permutation tests, and a correction for their number.

For each feature the images of the window and of the reference are thrown together and divided at
random, 1,999 times, into parts of the sizes that the two have. If both come from one distribution,
every division is as likely as the real one, so the share of divisions at least as far apart as the
real one is a p-value at the window's own size, whatever the distribution (Phipson and Smyth 2010,
arXiv:1603.05766, for the ones added). Counts are divided by the multivariate hypergeometric
distribution, which is what dividing images does to their counts.

It is exact if the statistic treats all images alike, as those of the classes and of the means do.
The bins of numbers and the width of the kernel of MMD come from the reference's images, and are the
same for all divisions, so these p-values are close to exact ones.

The decision is that of one test for each feature, chosen beforehand: Kolmogorov-Smirnov for
numbers, chi-squared for predicted classes, maximum mean discrepancy (MMD) and the Mahalanobis
distance of the means for sketches. Their p-values are corrected by Holm's method (1979), which
bounds the chance of any false alarm in a window whatever the dependence between features: that is
what someone who is woken pays for. Benjamini and Hochberg's bounds the share of false alarms among
several, which is of use to someone who reads lists.

A difference that is certain may still be nothing: with enough images every difference is. So an
alarm also needs a size: of the difference itself (`Limits.effect`, of MMD and Mahalanobis the
constants below), or a KL divergence of `Limits.kl`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vision.reference import distances
from vision.reference.statistics import Reference
from vision.reference.window import Window

LEAST_ROWS = 30  # a window of fewer images is not tested
MMD_ROWS = 500  # of the window and of the reference, at most; its time grows with their square
LEAST_MMD = 0.05  # square root of MMD^2, whose largest value is about 1.4
LEAST_SHIFT = 0.3  # Mahalanobis distance of the means, standard deviations
CLASSES = 5  # that have changed most
EMBEDDING = ("embedding_mmd", "embedding_shift")


@dataclasses.dataclass(frozen=True)
class Limits:
    """When a window alarms.

    Attributes:
        alpha: the chance of a false alarm in a window, at most.
        kl: KL divergence, nats, that is large enough to alarm if it is significant.
        effect: Kolmogorov-Smirnov or total variation distance that is.
    """

    alpha: float = 0.01
    kl: float = 0.2
    effect: float = 0.1

    @property
    def permutations(self) -> int:
        """Random divisions for each test: 1,999 by default. The smallest p-value, 1 over one more,
        must be below `alpha` even after the correction for a dozen features."""
        return max(999, math.ceil(20 / self.alpha) - 1)


LIMITS = Limits()


def assess(
    reference: Reference, window: Window, limits: Limits = LIMITS, seed: int = 0
) -> dict[str, Any]:
    """Returns how far a window is from its reference, and whether that is an alarm.

    Args:
        reference: the reference.
        window: the window.
        limits: when it alarms.
        seed: of the random divisions of counts.

    Returns:
        {"rows", "alarm": whether any feature alarms, "features": {name: measures}, "classes":
        indices of those that have changed most, if the predicted classes alarm}. The measures are
        "rows" (images whose value is known) and, unless they are too few or there is only one
        value, "kl", "psi", "js" (divergences), "kl_alarm" (whether KL alone would alarm), "test",
        "statistic", "effect", "p": {measure: p-value}, "adjusted": of the decisive test, by Holm,
        "alarm".
    """
    random = np.random.default_rng(seed)
    features = {}
    for name, feature in reference.features.items():
        features[name] = _compare(feature.counts, window.counts[name], "ks", limits, random)
    features["class"] = _compare(
        reference.class_counts, window.classes, "chi_squared", limits, random
    )
    sketches = random.permutation(window.sketches)
    features |= _compare_sketches(reference, sketches, limits)
    tested = [name for name, measures in features.items() if "p" in measures]
    p_values = np.array([features[name]["p"][features[name]["test"]] for name in tested])
    for name, adjusted in zip(tested, holm(p_values), strict=True):
        measures = features[name]
        measures["adjusted"] = float(adjusted)
        is_large = measures.pop("is_large")
        measures["alarm"] = bool(adjusted <= limits.alpha and is_large)
    alarms = [name for name in tested if features[name]["alarm"]]
    changed = _changed_classes(reference, window) if "class" in alarms else []
    return {"rows": window.rows, "alarm": bool(alarms), "features": features, "classes": changed}


def holm(p_values: np.ndarray) -> np.ndarray:
    """Returns p-values (N,) corrected for their number, by Holm's step-down method (1979).

    It controls the chance of any false discovery.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1)
    return adjusted[np.argsort(order, kind="stable")]


def _compare(expected, counts, test, limits, random):
    """Returns the measures of two counts (K,), of the reference and of the window."""
    rows = int(counts.sum())
    pooled = expected + counts
    if rows < LEAST_ROWS or np.count_nonzero(pooled) < 2:
        return {"rows": rows}
    divided = random.multivariate_hypergeometric(
        pooled, rows, limits.permutations, method="marginals"
    )
    parts = np.concatenate([counts[None], divided])
    window_part = distances.smoothed(parts)
    reference_part = distances.smoothed(pooled - parts)
    measured = {
        "kl": distances.kl(window_part, reference_part),
        "psi": distances.psi(window_part, reference_part),
        "js": distances.jensen_shannon(window_part, reference_part),
        test: _TESTS[test](parts, pooled - parts),
    }
    kl = float(measured["kl"][0])
    effect = distances.total_variation if test == "chi_squared" else distances.kolmogorov_smirnov
    size = float(effect(counts, expected))
    return {
        "rows": rows,
        **{name: float(measured[name][0]) for name in ("kl", "psi", "js")},
        "kl_alarm": kl >= limits.kl,
        "test": test,
        "statistic": float(measured[test][0]),
        "effect": size,
        "p": {name: p_value(values) for name, values in measured.items()},
        "is_large": size >= limits.effect or kl >= limits.kl,
    }


_TESTS: dict[str, Callable] = {
    "ks": distances.kolmogorov_smirnov,
    "chi_squared": distances.chi_squared,
}


def p_value(statistics: np.ndarray) -> float:
    """Returns the p-value of the first of (1 + B,) statistics, the others those of random
    divisions."""
    smallest = statistics[0] - 1e-9 * abs(statistics[0])  # equal ones may differ by rounding
    return float((statistics >= smallest).mean())


def _compare_sketches(reference, sketches, limits):
    """Returns {"embedding_mmd", "embedding_shift": measures}."""
    rows = len(sketches)
    if rows < LEAST_ROWS or len(reference.sample) < 2:
        return dict.fromkeys(EMBEDDING, {"rows": rows})
    return {
        "embedding_mmd": _compare_by_mmd(reference, sketches, limits),
        "embedding_shift": _compare_means(reference, sketches, limits),
    }


def _compare_by_mmd(reference, sketches, limits):
    sample = reference.sample[:MMD_ROWS]
    sketches = sketches[:MMD_ROWS]
    pooled = np.concatenate([sketches, sample])
    kernel = distances.gaussian_kernel(pooled - reference.mean, reference.bandwidth)
    chosen = divisions(len(sketches), len(sample), limits.permutations)
    squared = distances.mmd(kernel, chosen)
    size = float(np.sqrt(max(squared[0], 0)))
    return {
        "rows": len(sketches),
        "test": "mmd",
        "statistic": float(squared[0]),
        "effect": size,
        "p": {"mmd": p_value(squared)},
        "is_large": size >= LEAST_MMD,
    }


def _compare_means(reference, sketches, limits):
    rows = np.concatenate([sketches, reference.sample]).astype(np.float64) - reference.mean
    # by all rows, however they are divided: by the reference's, the real division would be special
    whitened = (rows @ distances.whitening(np.cov(rows.T))).astype(np.float32)
    size = len(sketches)
    rest = len(reference.sample)
    chosen = divisions(size, rest, limits.permutations)
    squared = distances.mean_shift(whitened.sum(0), chosen, whitened)
    whitening = distances.whitening(reference.covariance)
    shift = (rows[:size].mean(0) - rows[size:].mean(0)) @ whitening
    # what sampling alone adds is not a shift
    expected = whitening.shape[1] * (1 / size + 1 / rest)
    effect = float(np.sqrt(max(shift @ shift - expected, 0)))
    return {
        "rows": size,
        "test": "mahalanobis",
        "statistic": float(squared[0]),
        "effect": effect,
        "p": {"mahalanobis": p_value(squared)},
        "is_large": effect >= LEAST_SHIFT,
    }


@functools.lru_cache(maxsize=4)  # drawing them takes longer than all else
def divisions(size: int, rest: int, count: int) -> np.ndarray:
    """Returns float32 (1 + count, size + rest): rows of `size` ones, which choose a part of a
    sample; in the first row they are the first, in the others random, the same in each call."""
    chosen = np.zeros((1 + count, size + rest), np.float32)
    chosen[:, :size] = 1
    np.random.default_rng(0).permuted(chosen[1:], axis=1, out=chosen[1:])
    chosen.flags.writeable = False
    return chosen


def _changed_classes(reference, window):
    """Returns the classes with the largest standardized changes of their shares, at most
    `CLASSES`."""
    expected = reference.class_counts
    counts = window.classes
    pooled = (counts + expected) / (counts.sum() + expected.sum())
    variance = pooled * (1 - pooled) * (1 / counts.sum() + 1 / expected.sum())
    change = counts / counts.sum() - expected / expected.sum()
    size = np.abs(change) / np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny))
    return [int(i) for i in np.argsort(-size, kind="stable")[:CLASSES] if size[i] > 2]
