"""Guardrails from counts: pure functions from numbers to `Reading`s.

Every p-value is of an always-valid test (`vision.monitoring.abtest.sequential`), because the
controller looks every few seconds.
"""

import math
from collections.abc import Mapping

import numpy as np

from vision.monitoring.abtest.comparisons import Difference, two_proportions
from vision.monitoring.abtest.moments import Number, of_counts
from vision.monitoring.abtest.sequential import always_valid_p, always_valid_ratio
from vision.monitoring.rollout.rules import Reading

ANSWERED = "answered"  # requests
FAILED = "failed"
BUCKET = "le "  # followed by a bound: answers that took no longer, as Prometheus counts them
QUANTILE = 0.99
SLOW = 0.01  # share of the new version's answers that may be slower than the limit beyond the old's
# Difference of shares at which the tests see most: a few hundred answers can show no smaller one.
SCALE = 0.05

NEVER = 1e9  # seconds: no answer is slower; finite, so that JSON can hold it

Tally = Mapping[str, float]  # {ANSWERED, FAILED or BUCKET and a bound: count} of a version


def requests(tally: Tally) -> float:
    """Returns the requests that a version got."""
    return tally.get(ANSWERED, 0.0) + tally.get(FAILED, 0.0)


def worse(difference: Difference, margin: float) -> Number:
    """Returns the always-valid p-value of a change within a margin.

    Args:
        difference: of two versions, new - old; numbers, or arrays of one shape.
        margin: above 0 if the measure must not rise by more, below 0 if it must not fall by more.
    """
    is_beyond = (difference.difference - margin) * math.copysign(1, margin) > 0
    p = always_valid_p(difference, max(abs(margin), SCALE), margin)
    return np.where(is_beyond, p, 1.0)[()]


def errors(old: Tally, new: Tally, limit: float) -> Reading:
    """Compares the shares of requests without an answer.

    Args:
        old: counts of the old version.
        new: of the new one.
        limit: the share may be higher by this.
    """
    if not requests(old) or not requests(new):
        return Reading("errors")
    difference = two_proportions(
        of_counts(old.get(FAILED, 0.0), requests(old)),
        of_counts(new.get(FAILED, 0.0), requests(new)),
    )
    return Reading(
        "errors",
        float(difference.old),
        float(difference.new),
        float(difference.difference - limit),
        float(difference.units),
        float(worse(difference, limit)),
    )


def slow_bound(old: Tally, ratio: float) -> float:
    """Returns the bound of the histogram above which answers are too slow, in seconds.

    It is the first at or above `ratio` times the old version's p99, or `NEVER`; 0 if the old
    version has no answers.
    """
    limit = ratio * quantile(old, QUANTILE)
    if math.isnan(limit):
        return 0.0
    return min((bound for bound in bounds(old) if limit <= bound < math.inf), default=NEVER)


def p99(old: Tally, new: Tally, bound: float) -> Reading:
    """Compares the shares of answers slower than a bound.

    At most a hundredth of the old version's are: that is how `slow_bound` chooses it. Of the new
    version's a hundredth more may be.

    Args:
        old: counts of the old version.
        new: of the new one.
        bound: of the histogram, seconds; 0 if it is not chosen yet.
    """
    totals = [tally.get(bucket(math.inf), 0.0) for tally in (old, new)]
    if not all(totals) or not bound:
        return Reading("p99")
    fast = [_within(tally, bound) for tally in (old, new)]
    difference = two_proportions(
        of_counts(totals[0] - fast[0], totals[0]), of_counts(totals[1] - fast[1], totals[1])
    )
    return Reading(
        "p99",
        quantile(old, QUANTILE),
        quantile(new, QUANTILE),
        float(difference.difference - SLOW),
        float(difference.units),
        float(worse(difference, SLOW)),
        f"{difference.new:.1%} of its answers took more than {1000 * bound:g} ms",
    )


def split_p(old: float, new: float, share: float) -> float:
    """Returns the p-value of requests that are split as asked, right at every look together.

    Args:
        old: requests that the old version got.
        new: that the new one got.
        share: of the new one, in [0, 1]; at an end nothing is split, and the p-value is 1.
    """
    if not 0 < share < 1:
        return 1.0
    return always_valid_ratio((old, new), (1 - share, share))


def quantile(tally: Tally, level: float) -> float:
    """Returns a quantile of the times in seconds, as Prometheus' histogram_quantile does.

    Within a bucket times are taken to be evenly spread. NaN without answers; the highest finite
    bound if the quantile is above it.
    """
    total = tally.get(bucket(math.inf), 0.0)
    if not total:
        return math.nan
    wanted = level * total
    before = 0.0
    start = 0.0
    for bound in bounds(tally):
        count = tally[bucket(bound)]
        if count >= wanted and count > before:
            if math.isinf(bound):
                return start
            return start + (bound - start) * (wanted - before) / (count - before)
        before = count
        start = bound
    return start


def bounds(tally: Tally) -> list[float]:
    """Returns the histogram's bounds, rising."""
    return sorted(float(key.removeprefix(BUCKET)) for key in tally if key.startswith(BUCKET))


def bucket(bound: float) -> str:
    """Returns the key of a histogram's bound, in seconds, in a `Tally`."""
    return f"{BUCKET}{bound!r}"


def _within(tally, bound):
    """Returns the answers that took no longer than a bound, of the histogram or beyond it."""
    return tally[bucket(min(own for own in bounds(tally) if own >= bound))]
