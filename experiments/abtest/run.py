"""How often an A/B test is wrong, and how often it sees what it was planned to see: simulations.

    python -m experiments.abtest.run        # writes the tables of README.md; 15 s

A/A tests: both versions are the same. Each test is looked at once, at its end, and at 100 equally
many units on the way; it is wrong if it says at any look that there is a difference. "naive" is the
test for one look, repeated; "by row" takes images of one request for independent. Power: the
versions differ by what was planned for, at the planned number of units.
"""

import argparse
import math
import pathlib

import numpy as np

from experiments.readme import fill
from vision import cli
from vision.monitoring.abtest import comparisons, planning, sequential
from vision.monitoring.abtest.moments import cumulative, of_counts

PAGE = pathlib.Path(__file__).with_name("README.md")
TESTS = 2000
LOOKS = 100
ALPHA = 0.05
POWER = 0.8


def main(argv):
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    write("wrong", wrong_table(np.random.default_rng(0)))
    write("power", power_table(np.random.default_rng(1)))


def write(name, lines):
    """Prints a table, and puts it into README.md."""
    print(*lines, sep="\n", flush=True)
    fill(PAGE, lines, name)


def wrong_table(random):
    """Returns the lines of the table of A/A tests."""
    lines = [
        "| measure | split | units | scale | once | naive, 100 looks | sequential, 100 looks |",
        "|---|---|---|---|---|---|---|",
    ]

    def add(measure, split, units, scale, difference):
        once = share(difference.p[:, -1] < ALPHA)
        naive = share((difference.p < ALPHA).any(1))
        low, high = sequential.sequence(difference, scale, ALPHA)
        always = share(((low > 0) | (high < 0)).any(1))
        lines.append(
            f"| {measure} | {split} | {units:,} | {scale:g} | {once} | {naive} | {always} |"
        )

    for accuracy, split in ((0.5, 0.5), (0.9, 0.5), (0.98, 0.5), (0.9, 0.1)):
        difference = proportions(random, (accuracy, accuracy), 40_000, split)
        label = f"{100 - 100 * split:.0f}:{100 * split:.0f}"
        add(f"accuracy {accuracy:g}", label, 40_000, 0.01, difference)
    counts = 30 * np.arange(1, LOOKS + 1)
    sides = [means(random, counts) for _ in range(2)]
    add("latency, exponential, mean 1", "50:50", 6000, 0.05, comparisons.two_means(*sides))
    drawn = [clusters(random, counts[-1]) for _ in range(2)]
    sides = [cumulative(*units, counts) for units in drawn]
    add("accuracy, requests of 1 to 6", "50:50", 6000, 0.02, comparisons.two_proportions(*sides))
    by_row = [
        of_counts(total.cumsum(1)[:, counts - 1], rows.cumsum(1)[:, counts - 1])
        for rows, total in drawn
    ]
    add("the same, by row", "50:50", 6000, 0.02, comparisons.two_proportions(*by_row))
    return lines


def power_table(random):
    """Returns the lines of the table of power."""
    lines = [
        "| measure | planned, once | power | planned, sequential | power at the last look "
        "| at any look | ends after, mean | median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for baseline, effect, split in ((0.9, 0.01, 0.5), (0.9, 0.01, 0.1), (0.8, -0.03, 0.5)):
        rows = planning.proportion_rows(baseline, effect, split, ALPHA, POWER)
        plan = planning.plan(rows, ALPHA, POWER)
        accuracies = (baseline, baseline + effect)
        once = comparisons.two_proportions(
            *(
                of_counts(random.binomial(count, accuracy, TESTS), count)
                for count, accuracy in zip(rows, accuracies, strict=True)
            )
        )
        total = plan.sequential_old + plan.sequential_new
        difference = proportions(random, accuracies, total, split)
        name = f"accuracy {baseline:g} or {accuracies[1]:g}, {100 - 100 * split:.0f}:"
        lines.append(power_line(f"{name}{100 * split:.0f}", plan, once, difference, effect))
    plan = planning.plan(planning.mean_rows(1, 0.1, 0.5, ALPHA, POWER), ALPHA, POWER, 3, 0.4)
    step = math.ceil(plan.sequential_old / LOOKS)
    counts = step * np.arange(1, LOOKS + 1)
    sides = [correlated(random, mean, np.append(plan.old, counts)) for mean in (0, 0.1)]
    every = comparisons.two_means(*sides)
    once, difference = (
        comparisons.Difference(*(np.broadcast_to(field, every.p.shape)[:, part] for field in every))
        for part in (slice(0, 1), slice(1, None))
    )
    name = "mean 0 or 0.1, deviation 1, requests of 3, correlation 0.4"
    lines.append(power_line(name, plan, once, difference, 0.1))
    return lines


def power_line(name, plan, once, difference, effect):
    """Returns a line of the table of power."""
    low, high = sequential.sequence(difference, abs(effect), ALPHA)
    is_shown = low > 0 if effect > 0 else high < 0
    total = plan.sequential_old + plan.sequential_new
    ends = np.where(is_shown.any(1), (is_shown.argmax(1) + 1) / LOOKS, 1.0) * total
    return (
        f"| {name} | {plan.old + plan.new:,} | {share(once.p < ALPHA)} | {total:,} "
        f"| {share(is_shown[:, -1])} | {share(is_shown.any(1))} | {ends.mean():,.0f} "
        f"| {np.median(ends):,.0f} |"
    )


def share(outcomes):
    return f"{100 * np.mean(outcomes):.1f} %"


def proportions(random, accuracies, units, split):
    """Returns the `Difference` of accuracies at each look, (TESTS, LOOKS)."""
    sides = []
    for accuracy, part in zip(accuracies, (1 - split, split), strict=True):
        counts = np.round(units * part * np.arange(1, LOOKS + 1) / LOOKS).astype(int)
        right = random.binomial(np.diff(counts, prepend=0), accuracy, (TESTS, LOOKS)).cumsum(1)
        sides.append(of_counts(right, counts))
    return comparisons.two_proportions(*sides)


def means(random, counts):
    """Returns the moments of exponential numbers, (TESTS, LOOKS)."""
    totals = random.standard_exponential((TESTS, counts[-1]), dtype=np.float32)
    return cumulative(np.ones_like(totals), totals, counts)


def clusters(random, units):
    """Returns (rows, right answers), (TESTS, units), of requests that are easy or hard."""
    rows = random.integers(1, 7, (TESTS, units), dtype=np.int8)
    return rows, random.binomial(rows, random.beta(4, 1, (TESTS, units)))


def correlated(random, mean, counts):
    """Returns the moments of requests of three images with a correlation of 0.4."""
    shape = (TESTS, int(counts.max()))
    totals = random.normal(0, math.sqrt(0.4), shape) * 3
    totals += random.normal(0, math.sqrt(3 * 0.6), shape) + 3 * mean
    return cumulative(np.full(shape, 3, np.int8), totals, counts)


if __name__ == "__main__":
    cli.run(main)
