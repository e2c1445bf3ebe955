"""What a test would have shown at each look, from its first unit to its last."""

from typing import Any

import numpy as np

from vision.monitoring.abtest import comparisons, sequential
from vision.monitoring.abtest.moments import cumulative
from vision.monitoring.abtest.samples import Units
from vision.monitoring.log import moment

LOOKS = 60


def looks(
    units: Units, is_binary: bool, alpha: float, scale: float, is_share: bool = False
) -> list[dict[str, Any]]:
    """Returns the difference at up to `LOOKS` equally many units, in the order of time.

    Args:
        units: those with values.
        is_binary: whether the values are yes and no.
        alpha: chance that the sequence ever misses the difference.
        scale: of the sequence.
        is_share: whether their mean is a share even if a covariate adjusted them.

    Returns:
        For each look {"time", "units", "difference", "low", "high"} of the test for one look, and
        "always_low", "always_high" of the sequence.
    """
    order = np.argsort(units.seconds, kind="stable")
    rows = units.rows[order]
    totals = units.totals[order]
    is_new = units.is_new[order]
    ends = np.unique(np.linspace(0, len(order), LOOKS + 1).astype(int)[1:])
    new_counts = np.cumsum(is_new)[ends - 1]
    old_counts = ends - new_counts
    both = (new_counts > 1) & (old_counts > 1)
    old = cumulative(rows[~is_new], totals[~is_new], old_counts[both])
    new = cumulative(rows[is_new], totals[is_new], new_counts[both])
    compare = comparisons.two_proportions if is_binary else comparisons.two_means
    difference = compare(old, new, alpha)
    if is_share:
        difference = comparisons.of_shares(difference)
    low, high = sequential.sequence(difference, scale, alpha)
    columns = {
        "difference": difference.difference,
        "low": difference.low,
        "high": difference.high,
        "always_low": low,
        "always_high": high,
    }
    return [
        {"time": moment(units.seconds[order][end - 1]), "units": int(end)}
        | {name: float(np.asarray(values)[i]) for name, values in columns.items()}
        for i, end in enumerate(ends[both])
    ]
