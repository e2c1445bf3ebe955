"""What was shown, as abtest.json has it: the measure, guardrails, checks and the verdict."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vision.monitoring.abtest import comparisons, sequential
from vision.monitoring.abtest.comparisons import Difference
from vision.monitoring.abtest.moments import of_units
from vision.monitoring.abtest.request import Request
from vision.monitoring.abtest.samples import Units
from vision.monitoring.abtest.verdict import Evidence, Guardrail, decide
from vision.reference.verdict import holm

MISSING = 0.02  # difference of the shares of known values that is looked for
MOST_IN_BOTH = 0.01  # of the units; with more, the traffic is not split by them


def outcome(
    request: Request,
    difference: Difference,
    guardrails: Sequence[Guardrail],
    doubts: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns {"measure", "guardrails", "checks", "progress", "verdict"} of the record.

    Args:
        request: what was asked.
        difference: of the measure that decides.
        guardrails: judged.
        doubts: see `checks`; {} for pairs, of which nothing is split.
    """
    scale = abs(request.effect)
    low, high = sequential.sequence(difference, scale, request.alpha)
    ends = (low, high) if request.is_sequential else (difference.low, difference.high)
    progress = _progress(request, difference, doubts)
    evidence = Evidence(
        low=float(ends[0]),
        high=float(ends[1]),
        effect=request.effect,
        units=float(difference.units),
        progress=progress,
        is_sequential=request.is_sequential,
        guardrails=guardrails,
        doubts=[check["doubt"] for check in doubts.values() if check["doubt"]],
    )
    return {
        "measure": {"name": request.measure}
        | numbers(difference)
        | {
            "sequence": {
                "low": low,
                "high": high,
                "p": sequential.always_valid_p(difference, scale),
                "scale": scale,
            }
        },
        "guardrails": [
            {
                "measure": guardrail.name,
                "margin": guardrail.margin,
                "p": guardrail.p,
                "p_broken": guardrail.p_broken,
                "state": guardrail.state,
            }
            | {"difference": numbers(guardrail.difference)}
            for guardrail in guardrails
        ],
        "checks": doubts,
        "progress": progress,
        "verdict": dataclasses.asdict(decide(evidence)),
    }


def checks(
    request: Request, units: Units, both: int, guarded: Mapping[str, Units]
) -> dict[str, dict[str, Any]]:
    """Returns what could make the two versions' units incomparable: {check: {..., "doubt": why}}.

    The measure and the guardrails must be known equally often for both versions. The p-values of
    that are corrected by Holm's method for the number of measures, so that more guardrails do not
    mean more false doubts.

    Args:
        request: what was asked.
        units: all of them, also those of which nothing was measured.
        both: units that were left out, because both versions answered them.
        guarded: {name of a guardrail's measure: the same units, with its values}.
    """
    counts = [int((~units.is_new).sum()), int(units.is_new.sum())]
    share = request.shares[0] / sum(request.shares)
    wanted = f"{100 * share:.4g}:{100 - 100 * share:.4g}"
    ratio = sequential.always_valid_ratio if request.is_sequential else comparisons.sample_ratio
    p = ratio(counts, request.shares)
    mismatch = ""
    if p < comparisons.MISMATCH:
        mismatch = (
            f"{counts[0]:,} and {counts[1]:,} units do not match the split {wanted} ({p_text(p)})"
        )
    crossed = ""
    if both > MOST_IN_BOTH * (both + sum(counts)):
        crossed = f"{both:,} of {both + sum(counts):,} units got answers from both versions"
    # with a covariate, the measure is only of units that have that, too
    others = [name for name in guarded if name != request.measure or request.covariate]
    measured, *of_others = _coverage(
        [request.measure, *others], [units, *(guarded[name] for name in others)], request
    )
    return {
        "sample_ratio": {"units": counts, "split": wanted, "p": p, "doubt": mismatch},
        "in_both": {"units": both, "doubt": crossed},
        "measured": measured,
        "guarded": {
            "measures": dict(zip(others, of_others, strict=True)),
            "doubt": "; ".join(row["doubt"] for row in of_others if row["doubt"]),
        },
    }


def _coverage(names, parts, request):
    """Returns {"units", "shares", "p", "doubt"} of each measure: is it known equally often?

    Answers are counted, not units: of a user with many requests, something is nearly always known.
    """
    differences = [_known_shares(units) for units in parts]
    p_values = np.array(
        [
            sequential.always_valid_p(difference, MISSING)
            if request.is_sequential
            else difference.p
            for difference in differences
        ]
    )
    rows = []
    for name, units, difference, p in zip(names, parts, differences, holm(p_values), strict=True):
        shares = [float(difference.old), float(difference.new)]
        selective = ""
        if p < comparisons.MISMATCH:
            rates = " and ".join(f"{share:.1%}" for share in shares)
            selective = f"{name} is known for {rates} of the answers ({p_text(p)})"
        counts = [int((units.rows[side] > 0).sum()) for side in (~units.is_new, units.is_new)]
        rows.append({"units": counts, "shares": shares, "p": float(p), "doubt": selective})
    return rows


def _known_shares(units):
    """Returns the `Difference` of the shares of answers whose values are known."""
    old, new = (of_units(units.answers[s], units.rows[s]) for s in (~units.is_new, units.is_new))
    return comparisons.two_proportions(old, new)


def _progress(request, difference, doubts):
    """Returns the share of the planned size that is reached."""
    from scipy.stats import norm

    if request.planned:
        counts = doubts["measured"]["units"] if doubts else [difference.units]
        return float(sum(counts) / request.planned)
    wanted = abs(request.effect) / (norm.isf(request.alpha / 2) + norm.ppf(request.power))
    with np.errstate(divide="ignore", over="ignore"):  # infinite if all values are the same
        return float(np.square(np.divide(wanted, difference.error)))


def p_text(p: float) -> str:
    """Returns a p-value as a sentence shows it."""
    return "p below 0.0001" if p < 0.0001 else f"p {p:.2g}"


def numbers(difference: Difference) -> dict[str, float]:
    """Returns a `Difference` of numbers as a record holds it."""
    values = difference._asdict()
    del values["is_of_shares"]
    return {name: float(value) for name, value in values.items()}


def plain(value: Any) -> Any:
    """Returns a record that JSON can hold: infinite numbers and NaN as None."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
