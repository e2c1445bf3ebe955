"""Guardrails from counts, against scipy, Prometheus' formula and simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from vision.monitoring.rollout import readings
from vision.monitoring.rollout.plan import Plan
from vision.monitoring.rollout.rules import Action, Evidence, decide
from vision.monitoring.windows import Span

BOUNDS = (0.01, 0.02, 0.05, 0.1, 0.2, math.inf)


def tally(times=(), failed=0):
    """Returns the counts of answers that took so long, and of failures."""
    times = np.asarray(times)
    buckets = {f"le {bound!r}": float((times <= bound).sum()) for bound in BOUNDS}
    return {"answered": float(len(times)), "failed": float(failed)} | buckets


def test_errors_count_requests_without_an_answer():
    old, new = tally([0.01] * 990, 10), tally([0.01] * 80, 20)
    reading = readings.errors(old, new, 0.05)
    assert (reading.old, reading.new, reading.units) == (0.01, 0.2, 100)
    assert reading.excess == pytest.approx(0.19 - 0.05) and reading.p < 0.05
    assert readings.errors(old, tally([0.01] * 100, 1), 0.05).p == 1
    assert readings.errors(old, tally(), 0.05).units == 0


def test_quantiles_are_prometheus_own():
    random = np.random.default_rng(0)
    counts = tally(random.gamma(2, 0.02, 10_000))
    share = [counts[f"le {bound!r}"] / 10_000 for bound in BOUNDS]
    expected = np.interp([0.3, 0.5, 0.9], [0, *share[:-1]], [0, *BOUNDS[:-1]])
    seen = [readings.quantile(counts, level) for level in (0.3, 0.5, 0.9)]
    np.testing.assert_allclose(seen, expected)
    assert math.isnan(readings.quantile(tally(), 0.5))
    assert readings.quantile(tally([1.0] * 10), 0.5) == 0.2  # the highest that is finite


def test_p99_is_of_answers_slower_than_the_limit():
    old = tally([0.015] * 1000)
    bound = readings.slow_bound(old, 2.0)
    assert bound == 0.05  # twice 20 ms is 40
    same = readings.p99(old, tally([0.015] * 200), bound)
    assert same.excess == pytest.approx(-0.01) and same.p == 1
    slow = readings.p99(old, tally([0.015] * 180 + [0.15] * 20), bound)
    assert slow.excess == pytest.approx(0.09) and slow.new > 0.1 and slow.p < 0.05
    assert readings.p99(old, tally([0.015] * 200), 0.0).units == 0  # no bound yet
    assert readings.slow_bound(tally(failed=200), 2.0) == 0
    slowest = readings.slow_bound(tally([0.15] * 1000), 2.0)
    assert slowest == readings.NEVER and readings.p99(old, old, slowest).p == 1


def test_a_split_is_judged_unless_there_is_none():
    assert readings.split_p(950, 50, 0.05) > 0.5 and readings.split_p(500, 500, 0.5) > 0.5
    assert readings.split_p(950, 0, 0.05) < 0.001 and readings.split_p(90, 10, 0.5) < 0.001
    assert readings.split_p(0, 0, 0.1) == 1 and readings.split_p(5, 500, 1.0) == 1


def test_a_true_split_holds_however_often_it_is_looked_at():
    random = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        news = (random.random((60, 50)) < 0.05).sum(1).cumsum()
        totals = 50 * np.arange(1, 61)
        ps = [readings.split_p(*pair, 0.05) for pair in zip(totals - news, news, strict=True)]
        alarms += min(ps) < 0.05
    assert alarms <= scipy.stats.binom.ppf(0.999, 200, 0.05)


def rollout(random, errors, slow):
    """Returns the action that ends a simulated rollout, looked at every 60 requests.

    Args:
        random: the generator.
        errors: share of failures of the new version; the old one's is 0.02.
        slow: share of the new version's answers that take 150 ms instead of 15.
    """
    plan = Plan("pets", "1", "2", (20.0, 50.0, 100.0), Span(600, 0.0), guards=("errors", "p99"))
    step = 0
    sums = np.zeros((2, 3), int)  # requests, failures, slow answers of both
    while True:
        asked = random.multinomial(60, [1 - plan.share(step), plan.share(step)])
        failed = random.binomial(asked, [0.02, errors])
        late = random.binomial(asked - failed, [0.002, slow])
        sums += np.stack([asked, failed, late], 1)
        old, new = (
            tally([0.015] * (count - bad - long) + [0.15] * long, bad) for count, bad, long in sums
        )
        values = [readings.errors(old, new, 0.01), readings.p99(old, new, 0.05)]
        split = readings.split_p(*sums[:, 0], plan.share(step))
        seen = Evidence(step, float(sums[1, 0]), 0.0, values, split)
        action = decide(plan, seen).action
        if action in (Action.ROLL_BACK, Action.FINISH):
            return action
        if action is Action.RAISE:
            step += 1
            sums = sums * [[step == 2], [0]]  # the old version's counts stay for the last step
        if sums.sum() > 40_000:
            return Action.WAIT


def test_an_equal_version_is_rarely_rolled_back():
    random = np.random.default_rng(2)
    ends = [rollout(random, 0.02, 0.002) for _ in range(60)]
    assert ends.count(Action.ROLL_BACK) <= scipy.stats.binom.ppf(0.999, 60, 0.05)
    assert ends.count(Action.FINISH) >= 50


@pytest.mark.parametrize(("errors", "slow"), [(0.15, 0.002), (0.02, 0.2)], ids=["errors", "p99"])
def test_a_worse_version_is_always_rolled_back(errors, slow):
    random = np.random.default_rng(3)
    assert {rollout(random, errors, slow) for _ in range(15)} == {Action.ROLL_BACK}
