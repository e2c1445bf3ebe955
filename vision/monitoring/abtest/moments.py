"""Sums over the units of one version, from which every test is computed.

A unit is what the traffic is split by: a request. It may hold many images, and the images of one
request are not independent: they show one scene, come from one camera, or are one customer's. So a
mean over images is a ratio of two sums over requests, whose variance is that of the delta method
(Deng, Knoblich and Lu 2018, arXiv:1803.06336, section 3), not that of as many independent images.
If every request holds one image, all of this is the textbook's formula.
"""

import dataclasses

import numpy as np

Number = np.ndarray | float
LARGEST = 1e50  # of values and of differences that are asked for: sums of fourth powers are finite


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over the units of one version; numbers, or float64 arrays of one shape.

    Attributes:
        units: number of units.
        rows: values in all of them, the sum of m.
        total: sum of all values.
        squares: sum over units of (y - mean * m)², y being the sum of a unit's m values.
        rows_squared: sum of m².
    """

    units: Number
    rows: Number
    total: Number
    squares: Number
    rows_squared: Number

    @property
    def mean(self) -> Number:
        """Mean of all values; NaN if there are none."""
        return np.divide(self.total, self.rows, out=_nan(self.rows), where=_positive(self.rows))

    @property
    def variance(self) -> Number:
        """Variance of the mean, by the delta method; infinite for fewer than two units.

        With one value in a unit it is the sample variance divided by the number of units.
        """
        units = np.asarray(self.units, np.float64)
        several = units > 1
        scale = np.divide(units, units - 1, out=np.full(units.shape, np.inf), where=several)
        rows = np.where(several, self.rows, 1)
        squares = np.where(several, self.squares, 1)
        return (scale * squares / rows**2)[()]

    @property
    def effective_rows(self) -> Number:
        """As many independent yes-or-no values would have the same variance of their mean.

        Rao and Scott 1992: the rows divided by the design effect, which is the variance beside that
        of independent rows. It counts as 1 at least: less is luck more often than it is real.
        If all values are the same it cannot be estimated, and is the largest possible.
        """
        rows = np.asarray(self.rows, np.float64)
        mean = np.asarray(self.mean)
        independent = rows * mean * (1 - mean)  # rows² times the variance of the mean
        units = np.asarray(self.units, np.float64)
        robust = self.squares * units / np.maximum(units - 1, 1)
        largest = np.divide(self.rows_squared, rows, out=np.ones(rows.shape), where=rows > 0)
        is_varied = independent > 1e-9
        effect = np.divide(robust, independent, out=largest.copy(), where=is_varied)
        effect = np.where(rows == units, 1.0, np.clip(effect, 1.0, largest))
        return (rows / effect)[()]


def of_units(rows: np.ndarray, totals: np.ndarray) -> Moments:
    """Returns the moments of units.

    Args:
        rows: (K,), the number of values in each unit, above 0.
        totals: (K,), the sum of each unit's values.
    """
    rows = np.asarray(rows, np.float64)
    totals = np.asarray(totals, np.float64)
    count = float(rows.sum())
    total = float(totals.sum())
    residuals = totals - rows * (total / count if count else 0)
    return Moments(float(len(rows)), count, total, float(residuals @ residuals), float(rows @ rows))


def of_counts(successes: Number, rows: Number) -> Moments:
    """Returns the moments of independent yes-or-no values, each a unit of its own.

    Args:
        successes: how many are yes, any shape.
        rows: how many there are, of the same shape or one number.
    """
    successes, rows = np.broadcast_arrays(
        np.asarray(successes, np.float64), np.asarray(rows, np.float64)
    )
    spread = np.divide(successes * (rows - successes), rows, out=_zero(rows), where=rows > 0)
    return Moments(rows[()], rows[()], successes[()], spread[()], rows[()])


def cumulative(rows: np.ndarray, totals: np.ndarray, counts: np.ndarray) -> Moments:
    """Returns the moments of the first units, for several numbers of them.

    Args:
        rows: (..., K), the number of values in each unit.
        totals: (..., K), the sum of each unit's values.
        counts: integers (L,) from 0 to K: how many units to take.

    Returns:
        Moments of arrays (..., L).
    """
    rows = np.asarray(rows, np.float64)
    totals = np.asarray(totals, np.float64)
    # sums of squares of numbers far from 0 would lose their digits
    center = totals.sum() / max(rows.sum(), 1)
    totals = totals - center * rows

    def first(values):
        sums = np.cumsum(values, axis=-1)
        start = np.zeros((*sums.shape[:-1], 1))
        return np.concatenate([start, sums], axis=-1)[..., counts]

    count = first(rows)
    total = first(totals)
    mean = np.divide(total, count, out=_zero(count), where=count > 0)
    rows_squared = first(rows**2)
    squares = first(totals**2) - 2 * mean * first(rows * totals) + mean**2 * rows_squared
    units = np.broadcast_to(np.asarray(counts, np.float64), count.shape)
    return Moments(units, count, total + center * count, np.maximum(squares, 0), rows_squared)


def _positive(values):
    return np.asarray(values) > 0


def _nan(values):
    return np.full(np.shape(values), np.nan)


def _zero(values):
    return np.zeros(np.shape(values))
