"""Checks of whether two versions can be compared: how often they are wrong, and what they see."""

import pathlib

import numpy as np

from vision.monitoring.abtest.outcome import checks
from vision.monitoring.abtest.request import Request
from vision.monitoring.abtest.samples import Units

UNITS = 400
TESTS = 400
GUARDRAILS = 12


def drawn(random, is_new, share):
    """Returns units of up to 5 images, known with a probability that varies between units."""
    answers = random.integers(1, 6, len(is_new))
    rows = random.binomial(answers, random.beta(4 * share, 4 * (1 - share), len(is_new)))
    totals = random.binomial(rows, 0.9).astype(float)
    seconds = np.arange(len(rows), dtype=float)
    return Units(rows, totals, np.zeros(len(rows)), is_new, seconds, answers)


def test_guardrails_do_not_add_false_doubts():
    """A/A tests of 13 measures: the smallest p-value is below 0.05 in at most 5 % of them; without
    Holm's correction it would be in half."""
    random = np.random.default_rng(0)
    names = [f"g{i}" for i in range(GUARDRAILS)]
    guardrails = [(name, -0.01) for name in names]
    request = Request(pathlib.Path("log"), "pets", "1", "2", guardrails=guardrails)
    least = []
    for _ in range(TESTS):
        is_new = random.random(UNITS) < 0.5
        share = random.uniform(0.2, 0.8)
        guarded = {name: drawn(random, is_new, share) for name in names}
        seen = checks(request, drawn(random, is_new, share), 0, guarded)
        rows = [seen["measured"], *seen["guarded"]["measures"].values()]
        least.append(min(row["p"] for row in rows))
    least = np.array(least)
    alone = least / (GUARDRAILS + 1)  # the smallest of a test's p-values without the correction
    assert (least < 0.05).mean() < 0.08 and (least < 0.001).sum() <= 4  # 0.4 are expected
    assert (alone < 0.05).mean() > 0.35
