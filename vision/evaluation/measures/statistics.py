"""Is one classifier better than another, or was it luck? Tests on the same images, classified by
both."""

import numpy as np

CHUNK = 4_000_000  # numbers drawn at a time


def mcnemar(only_a, only_b):
    """Returns the two-sided p-value that two classifiers are equally often right, by the exact
    conditional test.

    McNemar 1947: images that both get right, or both wrong, tell nothing; of the others each
    classifier has half if the two are equally good, a binomial distribution.

    Args:
        only_a: images that only the first gets right.
        only_b: images that only the second gets right.
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_bootstrap(a, b, draws=1000, seed=0):
    """Returns how much higher the mean of a score is for one classifier than for another, on the
    same images.

    Args:
        a, b: float (N,), each image's score, such as whether it is right, or its loss.
        draws: of the bootstrap over images; 0 = no interval.
        seed: of the draws.

    Returns:
        {"difference": mean of a - b, "low", "high": its 95 % percentile interval, "p": two-sided}:
        twice the smaller share of draws on either side of 0, each draw and the measured difference
        counted (Davison and Hinkley 1997, section 4.4). Without draws, only the difference.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    found = {"difference": float(difference.mean())}
    return found | interval(_means(difference, draws, seed)) if draws else found


def interval(draws):
    """Returns {"low", "high", "p"} of a difference from its bootstrap draws, float (D,): see
    `paired_bootstrap`."""
    low, high = np.quantile(draws, (0.025, 0.975))
    tail = 1 + min((draws <= 0).sum(), (draws >= 0).sum())
    return {
        "low": float(low),
        "high": float(high),
        "p": float(min(1.0, 2 * tail / (len(draws) + 1))),
    }


def _means(values, draws, seed):
    """Returns the means of `draws` samples with replacement, float64 (draws,)."""
    random = np.random.default_rng(seed)
    size = len(values)
    kinds, counts = np.unique(values, return_counts=True)
    # of right and wrong: how often each was drawn is multinomial, and no image is looked up
    if len(kinds) <= 10:
        return random.multinomial(size, counts / size, draws) @ kinds / size
    step = max(1, CHUNK // size)
    parts = [
        values[random.integers(0, size, (min(step, draws - i), size))].mean(1)
        for i in range(0, draws, step)
    ]
    return np.concatenate(parts)


def holm(p_values):
    """Returns p-values corrected for being several, float64 (K,): Holm 1979, which keeps the chance
    of any false find.

    Args:
        p_values: K of them, in [0, 1].
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(
        1, np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    )
    return corrected


def share(hits, total):
    """Returns {"value", "low", "high"}: a share, its 95 % interval by Wilson 1927; all None of no
    images."""
    from scipy.stats import binomtest

    if not total:
        return {"value": None, "low": None, "high": None}
    held = binomtest(int(hits), int(total)).proportion_ci(method="wilson")
    return {"value": float(hits / total), "low": float(held.low), "high": float(held.high)}
