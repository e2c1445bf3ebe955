"""Ship, keep or continue: one rule, and the reason in a sentence."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from vision.monitoring.abtest import sequential
from vision.monitoring.abtest.comparisons import Difference, not_worse
from vision.reference.verdict import holm

LEAST_UNITS = 30  # of each version; with fewer, a test for one look decides nothing


@dataclasses.dataclass(frozen=True)
class Guardrail:
    """A measure that must not become worse by more than a margin.

    Attributes:
        name: of the measure.
        margin: below 0 if it must not fall by more, above 0 if it must not rise by more.
        difference: of the two versions.
        p: Holm-corrected p-value of a change as bad as the margin, or worse.
        p_broken: of a change no worse than the margin, right at every look together.
        state: "holds", "broken" or "open".
    """

    name: str
    margin: float
    difference: Difference
    p: float
    p_broken: float
    state: str


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a verdict is made from.

    Attributes:
        low, high: interval of the measure's difference, new - old, for one look or, if the test is
            sequential, for all.
        effect: difference that matters; its sign says which direction is better.
        units: of the version that has fewer.
        progress: share of the planned size that is reached.
        is_sequential: whether the interval holds at every look.
        guardrails: those of the test.
        doubts: why the versions cannot be compared, a clause each; () if they can.
    """

    low: float
    high: float
    effect: float
    units: float
    progress: float
    is_sequential: bool = False
    guardrails: Sequence[Guardrail] = ()
    doubts: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What to do.

    Attributes:
        decision: "ship" the new version, "keep" the old one, or "continue" the test.
        reason: a sentence.
    """

    decision: str
    reason: str


def judge_guardrails(
    differences: Sequence[tuple[str, float, Difference]], alpha: float, is_sequential: bool
) -> list[Guardrail]:
    """Tests guardrails for non-inferiority, corrected by Holm's method for their number.

    A broken guardrail ends a test at once, so that it is broken is always shown by the sequential
    test: analyses before the planned size are looks, too. At the planned size this costs nothing,
    because a guardrail that is not shown to hold keeps the old version anyway.

    Args:
        differences: (name, margin, difference of the versions) of each.
        alpha: chance that any state other than "open" is wrong, at most, for each direction.
        is_sequential: whether "holds" must be right at every look, as "broken" is.
    """
    if not differences:
        return []
    holding = []
    broken = []
    for _, margin, difference in differences:
        test = sequential.always_not_worse if is_sequential else not_worse
        holding.append(float(test(difference, margin)))
        # the other side of the same margin
        opposite = difference._replace(difference=2 * margin - difference.difference)
        broken.append(float(sequential.always_not_worse(opposite, margin)))
    corrected = zip(differences, holm(np.array(holding)), holm(np.array(broken)), strict=True)
    return [
        Guardrail(*judged, float(p), float(p_broken), _state(judged[2], p, p_broken, alpha))
        for judged, p, p_broken in corrected
    ]


def decide(evidence: Evidence) -> Verdict:
    """Returns the verdict.

    The new version is shipped if it is better and every guardrail holds; the old one is kept if the
    new one is worse or breaks a guardrail, or if no gain is shown and any gain would be less than
    the effect that matters. A test that is not sequential decides once, at its planned size, except
    on a broken guardrail. If nothing is shown by then, the old version is kept, because further
    looks would not keep the level.
    """
    if evidence.doubts:
        return Verdict("continue", f"Nothing can be decided: {'; '.join(evidence.doubts)}.")
    least = sequential.LEAST_UNITS if evidence.is_sequential else LEAST_UNITS
    if evidence.units < least:
        return Verdict(
            "continue", f"A version has {evidence.units:,.0f} measured units, fewer than {least}."
        )
    broken = [guardrail for guardrail in evidence.guardrails if guardrail.state == "broken"]
    if broken:
        names = " and ".join(guardrail.name for guardrail in broken)
        return Verdict("keep", f"The new version breaks the guardrail on {names}.")
    if not evidence.is_sequential and evidence.progress < 1:
        return Verdict(
            "continue",
            f"{evidence.progress:.0%} of the planned size is reached, and a test that is not "
            "sequential decides only once, at the full size.",
        )
    return _by_interval(evidence)


def _by_interval(evidence):
    """Returns the verdict if only the measure and open guardrails are left to judge."""
    sign = math.copysign(1, evidence.effect)
    least, most = sorted((sign * evidence.low, sign * evidence.high))
    gain = "gain" if sign > 0 else "reduction"
    interval = f"{least:+.3g} to {most:+.3g}"
    unsettled = [guardrail.name for guardrail in evidence.guardrails if guardrail.state == "open"]
    waiting = "continue" if evidence.is_sequential else "keep"
    if most < 0:
        return Verdict("keep", f"The new version is worse: a {gain} of {interval}.")
    if least > 0 and unsettled:
        return Verdict(
            waiting,
            f"The new version is better, a {gain} of {interval}, but the guardrail on "
            f"{' and '.join(unsettled)} is not shown to hold{_at_the_end(evidence)}.",
        )
    if least > 0:
        guarded = " and every guardrail holds" if evidence.guardrails else ""
        return Verdict("ship", f"The new version is better, a {gain} of {interval}{guarded}.")
    if most < abs(evidence.effect):
        return Verdict(
            "keep",
            f"The {gain} is {interval}, below the {abs(evidence.effect):.3g} that would matter.",
        )
    return Verdict(waiting, f"No {gain} is shown{_at_the_end(evidence)}: it may be {interval}.")


def _at_the_end(evidence):
    return "" if evidence.is_sequential else " at the planned size"


def _state(difference, p, p_broken, alpha):
    if difference.units < LEAST_UNITS:
        return "open"
    if p <= alpha:
        return "holds"
    return "broken" if p_broken <= alpha else "open"
