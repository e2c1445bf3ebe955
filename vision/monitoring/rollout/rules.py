"""What to do next, from what was measured: one rule, and the reason in a sentence."""

import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vision.monitoring.abtest.sequential import LEAST_UNITS
from vision.monitoring.rollout.plan import Plan
from vision.reference.verdict import holm

COMPARED = ("errors", "p99", "disagreement")  # which must be measured before a step ends


class Action(enum.StrEnum):
    """What to do.

    Attributes:
        RAISE: to the next step.
        FINISH: the rollout is complete.
        ROLL_BACK: take the traffic from the new version.
        WAIT: for more answers.
        HOLD: at this weight; the traffic is not split as asked, or labels come for one version
            more often.
        PAUSE: at this weight; nothing can be said.
    """

    RAISE = "raise"
    FINISH = "finish"
    ROLL_BACK = "roll back"
    WAIT = "wait"
    HOLD = "hold"
    PAUSE = "pause"


class Reading(NamedTuple):
    """A guardrail's measurement in a step.

    Attributes:
        name: of `vision.monitoring.rollout.plan.GUARDS`.
        old: the old version's value; NaN if there is none.
        new: the new version's value.
        excess: how far the new version is beyond its limit; below 0 within it.
        units: what was measured, of the version with less; 0 if nothing was.
        p: p-value of being within the limit, right at every look together.
        note: what else is to be said, a clause; "" for nothing.
    """

    name: str
    old: float = math.nan
    new: float = math.nan
    excess: float = -math.inf
    units: float = 0.0
    p: float = 1.0
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known of a step.

    Attributes:
        step: number of the step, from 0.
        answers: requests that the new version got since the step began.
        seconds: since the step began.
        readings: of the guardrails, each at most once.
        split_p: p-value of the traffic's split, right at every look together.
        labels: of the new version's answers that have a label.
        logged: of the new version's requests that are in the log; None without a log.
        doubts: why nothing can be said, a clause each; () if something can.
        labeled: the shares of (the old, the new) version's answers that have a label.
        labeled_p: p-value of these being equal, right at every look together.
    """

    step: int
    answers: float
    seconds: float
    readings: Sequence[Reading] = ()
    split_p: float = 1.0
    labels: int = 0
    logged: int | None = None
    doubts: Sequence[str] = ()
    labeled: tuple[float, float] = (0.0, 0.0)
    labeled_p: float = 1.0


@dataclasses.dataclass(frozen=True)
class Decision:
    """What to do, and why.

    Attributes:
        action: what to do.
        reason: a sentence.
    """

    action: Action
    reason: str


def decide(plan: Plan, evidence: Evidence) -> Decision:
    """Returns what to do.

    Without enough answers nothing is decided, so a version that nobody asked is never rolled back.
    It is if a guardrail is shown to be broken: at the step's level, corrected by Holm for the
    number of guardrails. If the traffic is not split as asked the versions cannot be compared, so
    that only requests that failed count against the new one. If labels come for one version more
    often than for the other, accuracy does not count. A guardrail that looks broken, but is not
    shown to be, holds the step open until more answers decide.
    """
    if evidence.doubts:
        return Decision(Action.PAUSE, f"Cannot tell: {'; '.join(evidence.doubts)}.")
    if evidence.answers < plan.min_answers:
        return Decision(
            Action.WAIT,
            f"Version {plan.new} got {evidence.answers:,.0f} requests, fewer than --min-answers "
            f"{plan.min_answers:,}.",
        )
    is_split = evidence.split_p >= plan.mismatch
    are_alike = evidence.labeled_p >= plan.mismatch or "accuracy" not in plan.guards
    broken = [
        reading
        for reading in broken_readings(plan, evidence)
        if (is_split or reading.name == "errors") and (are_alike or reading.name != "accuracy")
    ]
    if broken:
        reasons = "; ".join(describe(plan, reading) for reading in broken)
        return Decision(Action.ROLL_BACK, f"Version {plan.new} is worse: {reasons}.")
    if not is_split:
        return Decision(
            Action.HOLD,
            f"The traffic is not split as {_ratio(plan, evidence.step)} (p {evidence.split_p:.1g})"
            ": find the cause, such as requests that name a version or few route keys.",
        )
    if not are_alike:
        old, new = evidence.labeled
        return Decision(
            Action.HOLD,
            f"Labels have come for {old:.1%} of version {plan.old}'s answers and {new:.1%} of "
            f"version {plan.new}'s (p {evidence.labeled_p:.1g}), so accuracy cannot be compared: "
            "find the cause, such as labels that are chosen by the answer.",
        )
    reason = _why_wait(plan, evidence)
    if reason:
        return Decision(Action.WAIT, reason)
    if evidence.step == len(plan.steps) - 1:
        return Decision(
            Action.FINISH, f"Version {plan.new} has all of the traffic, and the guardrails hold."
        )
    measured = ", ".join(reading.name for reading in evidence.readings if reading.units)
    return Decision(
        Action.RAISE,
        f"{evidence.answers:,.0f} requests, and what was measured holds: {measured or 'nothing'}.",
    )


def is_over(plan: Plan, evidence: Evidence) -> bool:
    """Returns whether a step's window is over."""
    rows, seconds = plan.window
    return evidence.answers >= max(rows, plan.min_answers) and evidence.seconds >= seconds


def broken_readings(plan: Plan, evidence: Evidence) -> list[Reading]:
    """Returns the readings that are shown to be beyond their limits."""
    if not evidence.readings:
        return []
    adjusted = holm(np.array([reading.p for reading in evidence.readings]))
    return [
        reading
        for reading, p in zip(evidence.readings, adjusted, strict=True)
        if p <= plan.alpha_of_step
    ]


def describe(plan: Plan, reading: Reading) -> str:
    """Returns a clause on what a guardrail has measured."""
    limits = plan.limits
    old, new = (_number(reading.name, value) for value in (reading.old, reading.new))
    versions = f"{new} instead of {old}" if old else new
    differing = f"{versions} of the answers are of one class" if old else f"{new} of images differ"
    texts = {
        "errors": f"{versions} of the requests failed (limit +{limits.errors:.3g})",
        "p99": f"p99 is {versions} (limit x{limits.p99:g})",
        "drift": "its drift alarms, and the old version's does not",
        "disagreement": f"{differing} (limit {limits.disagreement:.3g})",
        "accuracy": f"accuracy is {versions} (limit -{limits.accuracy:.3g})",
    }
    note = f", {reading.note}" if reading.note else ""
    return f"{texts[reading.name]}{note}"


def _why_wait(plan, evidence):
    """Returns why the step is not complete; "" if it is."""
    suspects = [
        reading
        for reading in evidence.readings
        if reading.excess > 0 and reading.units >= LEAST_UNITS
    ]
    if suspects:
        reasons = "; ".join(describe(plan, reading) for reading in suspects)
        return f"More answers are needed to tell whether this is chance: {reasons}."
    rows, seconds = plan.window
    if rows and evidence.answers < rows:
        return f"{evidence.answers:,.0f} of {rows:,} requests of the step's window."
    if evidence.seconds < seconds:
        return f"{evidence.seconds:,.0f} of {seconds:,.0f} seconds of the step's window."
    is_last = evidence.step == len(plan.steps) - 1
    least = 1 if is_last else LEAST_UNITS  # the old version has no more answers in the last step
    missing = [
        reading.name
        for reading in evidence.readings
        if reading.name in COMPARED and reading.units < least
    ]
    if missing:
        return f"Too few answers of both versions were measured: {', '.join(missing)}."
    if is_last:
        return ""
    if evidence.logged is not None and evidence.logged < plan.min_answers:
        return (
            f"The log has {evidence.logged:,} requests of the step, fewer than --min-answers "
            f"{plan.min_answers:,}: the server writes it every --prediction-minutes."
        )
    if "accuracy" in plan.guards and evidence.labels < plan.min_labels:
        return (
            f"{evidence.labels:,} labels of version {plan.new}, fewer than --min-labels "
            f"{plan.min_labels:,}."
        )
    return ""


def _ratio(plan, step):
    old, new = plan.weights(step).values()
    return f"{old:g}:{new:g}"


def _number(name, value):
    """Returns a measured value as text; "" if there is none."""
    if math.isnan(value):
        return ""
    return f"{1000 * value:.3g} ms" if name == "p99" else f"{value:.2%}"
