"""How many requests an A/B test needs, and for how many days."""

import dataclasses
import math

from vision.errors import UserError, check_range

MOST_UNITS = 1e12


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an A/B test needs.

    Attributes:
        old, new: units of each version.
        rows_old, rows_new: images of each.
        design_effect: how many times as many images clustering asks for.
        inflation: how many times as many units a sequential test asks for, at most.
        sequential_old, sequential_new: units of each version for it.
    """

    old: int
    new: int
    rows_old: int
    rows_new: int
    design_effect: float
    inflation: float
    sequential_old: int
    sequential_new: int

    def days(self, traffic: float) -> tuple[int, int]:
        """Returns the days that a fixed test takes, and those of a sequential one, at most.

        Args:
            traffic: units in a day that the two versions answer together.
        """
        fixed = math.ceil((self.old + self.new) / traffic)
        return fixed, math.ceil((self.sequential_old + self.sequential_new) / traffic)


def proportion_rows(
    baseline: float, effect: float, share_new: float, alpha: float, power: float
) -> tuple[int, int]:
    """Returns the independent rows (old, new) that the two-proportion z-test needs.

    Args:
        baseline: share of yes of the old version, in (0, 1).
        effect: difference to see; baseline + effect is in (0, 1).
        share_new: the new version's share of the traffic, in (0, 1).
        alpha: chance of a false positive, two-sided.
        power: chance to see the difference.

    Raises:
        UserError: the effect leads out of (0, 1), or is too small for any number of rows.
    """
    from statsmodels.stats.proportion import power_proportions_2indep

    check_range("baseline + effect", baseline + effect, 0 < baseline + effect < 1, "in (0, 1)")

    def reached(old):
        # statsmodels' differences are of the first sample, whose number of rows it takes
        new = old * share_new / (1 - share_new)
        return float(power_proportions_2indep(effect, baseline, new, old / new, alpha=alpha).power)

    return _both(reached, share_new, power)


def mean_rows(
    deviation: float, effect: float, share_new: float, alpha: float, power: float
) -> tuple[int, int]:
    """Returns the independent rows (old, new) that a t-test of two means needs.

    Args:
        deviation: standard deviation of the measure, in its unit, above 0.
        effect: difference to see, in the same unit.
        share_new: the new version's share of the traffic, in (0, 1).
        alpha: chance of a false positive, two-sided.
        power: chance to see the difference.

    Raises:
        UserError: the effect is too small for any number of rows.
    """
    from statsmodels.stats.power import TTestIndPower

    ratio = share_new / (1 - share_new)

    def reached(old):
        return float(TTestIndPower().power(abs(effect) / deviation, old, alpha, ratio))

    return _both(reached, share_new, power)


def plan(
    rows: tuple[int, int], alpha: float, power: float, images: float = 1, correlation: float = 0
) -> Plan:
    """Returns the plan of a test that needs so many independent rows.

    Args:
        rows: of the old and the new version.
        alpha: chance of a false positive.
        power: chance to see the difference.
        images: in a request, on average, at least 1; all requests are taken to be alike.
        correlation: of the measure between two images of a request, in [0, 1]. The design effect
            is 1 + (images - 1) * correlation (Kish 1965).
    """
    from vision.monitoring.abtest.sequential import inflation

    effect = 1 + (images - 1) * correlation
    old, new = (math.ceil(count * effect / images) for count in rows)
    more = inflation(alpha, power)
    return Plan(
        old,
        new,
        math.ceil(old * images),
        math.ceil(new * images),
        effect,
        more,
        math.ceil(old * more),
        math.ceil(new * more),
    )


def _both(reached, share_new, power):
    """Returns the smallest (old, new) of a split at which `reached(old)` is at least the power."""
    high = 2.0 * max(1.0, (1 - share_new) / share_new)
    while reached(high) < power:
        high *= 2
        if high > MOST_UNITS:
            raise UserError(
                "so small a difference needs more than a trillion requests: plan for a larger one"
            )
    low = high / 2
    while high - low > max(0.5, high * 1e-6):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) >= power else (middle, high)
    old = math.ceil(high)
    return old, math.ceil(high * share_new / (1 - share_new))
