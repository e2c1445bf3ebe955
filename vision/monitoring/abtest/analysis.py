"""From a prediction log to a verdict: what abtest.json holds."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from vision.errors import UserError
from vision.monitoring.abtest import comparisons, cuped, samples
from vision.monitoring.abtest.answers import Answers, read_answers
from vision.monitoring.abtest.history import looks
from vision.monitoring.abtest.moments import of_units
from vision.monitoring.abtest.outcome import checks, numbers, outcome, plain
from vision.monitoring.abtest.pairs import agreement, find_pairs
from vision.monitoring.abtest.request import Request
from vision.monitoring.abtest.samples import Measure, Sources
from vision.monitoring.abtest.verdict import judge_guardrails
from vision.monitoring.log import Log, moment, open_log
from vision.reference.shares import mcnemar
from vision.support.progress import waiting

FORMAT = 1  # of abtest.json


@dataclasses.dataclass(frozen=True)
class _Data:
    """What the log says, and where measures come from."""

    log: Log
    answers: Answers
    sources: Sources
    codes: np.ndarray
    covariate: Measure | None


def analyze(request: Request, report: Callable[[str], object] = print) -> dict[str, Any]:
    """Compares two versions; returns what abtest.json holds.

    Args:
        request: what to compare.
        report: called with a line of text for each oddity of the data.

    Raises:
        UserError: a file cannot be read, or does not have what is asked for.
    """
    log = open_log(request.log)
    for name, reason in list(log.skipped.items())[:3]:
        report(f"{name} is not read: {reason} ({len(log.skipped):,} such files)")
    sources = samples.open_sources(request.labels, request.table, request.measures, request.unit)
    versions = (request.old, request.new)
    columns = samples.log_columns(request.measures)
    answers = read_answers(log, request.model, versions, columns, request.window)
    covariate = None
    if request.covariate:
        samples.check_covariate(request.covariate, request.judged)
        covariate = samples.measure(request.covariate, answers, sources, log)
    codes = samples.unit_codes(answers, sources, request.unit, log)
    data = _Data(log, answers, sources, codes, covariate)
    pairs = find_pairs(answers)
    record = _header(request, data)
    given = answers.is_new[~answers.shadow]
    if given.any() and not given.all():
        with waiting("comparing the versions"):
            record |= _randomized(request, data, report)
    elif len(pairs.old):
        with waiting("comparing the versions"):
            record |= _shadowed(request, data, pairs)
    else:
        raise UserError(
            f"--log {request.log}: {request.old} and {request.new} did not share the traffic, and "
            "no image was answered by both: there is nothing to compare"
        )
    record["pairs"] = _pairs(request, data, pairs) if len(pairs.old) else None
    record["labels"] = _label_counts(sources)
    return plain(record)


def _header(request, data):
    """Returns what was asked and what was read."""
    answers = data.answers
    given = ~answers.shadow
    return {
        "format": FORMAT,
        "model": request.model,
        "versions": [
            {
                "version": version,
                "bundles": answers.bundles[place],
                "answers": int((given & (answers.is_new == bool(place))).sum()),
                "shadow_answers": int((answers.shadow & (answers.is_new == bool(place))).sum()),
            }
            for place, version in enumerate((request.old, request.new))
        ],
        "log": {
            "directory": str(request.log),
            "files": len(data.log.files),
            "skipped": data.log.skipped,
            "steps_back": data.log.steps_back,
        },
        "first": moment(answers.seconds.min()),
        "last": moment(answers.seconds.max()),
        "unit": request.unit or "request",
        "answers_of_unknown_unit": int((given & (data.codes < 0)).sum()),
        "alpha": request.alpha,
        "power": request.power,
        "effect": request.effect,
        "sequential": request.is_sequential,
    }


def _randomized(request, data, report):
    """Returns the part of the record on two versions that share the traffic."""
    units, is_binary, both = _units(request, data, request.measure, data.covariate)
    if not units.is_new.any() or units.is_new.all():
        name = f"column {request.unit} of --table" if request.unit else "request's identifier"
        raise UserError(
            f"nearly every {name} has answers from both {request.old} and {request.new}, so the "
            "traffic is not split by it"
        )
    measured = units.measured()
    guarded = {name: _units(request, data, name)[:2] for name, _ in request.guardrails}
    doubts = checks(request, units, both, {name: part for name, (part, _) in guarded.items()})
    if not measured.is_new.any() or measured.is_new.all():
        raise UserError(f"a version has no answers with a known {request.measure}")
    adjusted = None
    totals = measured.totals
    if data.covariate is not None:
        adjusted = cuped.adjust(
            measured.rows, measured.totals, measured.covariates, measured.is_new
        )
        totals = adjusted.totals
    measured = measured._replace(totals=totals)
    is_share = is_binary  # also if its values are adjusted, which are neither 0 nor 1
    is_binary = is_binary and adjusted is None
    difference = _difference(measured, is_binary, request.alpha)
    if is_share:
        difference = comparisons.of_shares(difference)

    def compare(name):
        return _difference_of(request, name, *guarded[name])

    record = outcome(request, difference, _judged(request, compare), doubts)
    record["measure"] |= {
        "kind": "proportion" if is_binary else "mean",
        "rows": [int(measured.rows[side].sum()) for side in (~measured.is_new, measured.is_new)],
        "units": [int((~measured.is_new).sum()), int(measured.is_new.sum())],
        "most_in_a_unit": int(measured.rows.max()),
    }
    record["cuped"] = adjusted and {
        "covariate": request.covariate,
        "slope": adjusted.slope,
        "variance_removed": adjusted.removed,
        "p_of_a_difference": _covariate_p(measured, request.alpha),
    }
    scale = abs(request.effect)
    record["looks"] = (
        looks(measured, is_binary, request.alpha, scale, is_share) if request.is_sequential else []
    )
    if data.log.steps_back and request.is_sequential:
        report("the server's clock went back: the order of the looks is uncertain")
    return record


def _shadowed(request, data, pairs):
    """Returns the part of the record on a version that was a shadow only."""
    difference = _paired(request, data, pairs, request.measure)

    def compare(name):
        return _paired(request, data, pairs, name)

    record = outcome(request, difference, _judged(request, compare), {})
    return record | {"cuped": None, "looks": []}


def _judged(request, compare):
    """Returns the guardrails, judged; `compare(name)` returns a `Difference`."""
    differences = [(name, margin, compare(name)) for name, margin in request.guardrails]
    return judge_guardrails(differences, request.alpha, request.is_sequential)


def _units(request, data, name, covariate=None):
    """Returns (the units of a measure, whether it is of yes and no, units in both versions)."""
    values = samples.measure(name, data.answers, data.sources, data.log)
    units, both = samples.group(data.answers, data.codes, values, covariate)
    return units, samples.is_binary(data.answers, values), both


def _difference_of(request, name, units, is_binary):
    units = units.measured()
    if not units.is_new.any() or units.is_new.all():
        raise UserError(f"--guardrail {name}: a version has no answers with a known {name}")
    return _difference(units, is_binary, request.alpha)


def _difference(units, is_binary, alpha):
    old, new = (of_units(units.rows[s], units.totals[s]) for s in (~units.is_new, units.is_new))
    compare = comparisons.two_proportions if is_binary else comparisons.two_means
    return compare(old, new, alpha)


def _covariate_p(units, alpha):
    """Returns the p-value of equal covariates: if it is tiny, the versions' traffic differs."""
    return float(_difference(units._replace(totals=units.covariates), False, alpha).p)


def _paired(request, data, pairs, name):
    values = samples.measure(name, data.answers, data.sources, data.log)
    if values.by_request:
        raise UserError(
            f"{name} is a column of --table, which describes answers that were sent: one of "
            f"{request.old} and {request.new} has only shadow answers, which were not"
        )
    old, new, unit = _measured_pairs(data, pairs, values)
    if not len(unit):
        wanted = f"{name} and {request.unit}" if request.unit else name
        raise UserError(f"no image that both versions answered has a known {wanted}")
    return comparisons.paired(old, new, unit, request.alpha)


def _measured_pairs(data, pairs, values):
    """Returns the old values, the new ones and the units of pairs of which all three are known."""
    old = values.values[pairs.old]
    new = values.values[pairs.new]
    unit = data.codes[pairs.old]
    is_measured = ~np.isnan(old) & ~np.isnan(new) & (unit >= 0)
    return old[is_measured], new[is_measured], unit[is_measured]


def _pairs(request, data, pairs):
    """Returns the record's part on shadow answers."""
    record: dict[str, Any] = {
        "images": len(pairs.old),
        "requests": len(np.unique(data.answers.request[pairs.old])),
        "left_out": pairs.left_out,
        "agreement": agreement(data.answers, pairs),
    }
    values = samples.measure(request.measure, data.answers, data.sources, data.log)
    if values.by_request:
        return record
    old, new, unit = _measured_pairs(data, pairs, values)
    if not len(unit):
        return record
    record["comparison"] = numbers(_paired(request, data, pairs, request.measure))
    if samples.is_binary(data.answers, values):
        only_old = int((old > new).sum())
        only_new = int((new > old).sum())
        record["mcnemar"] = {
            "only_old": only_old,
            "only_new": only_new,
            "p": mcnemar(only_old, only_new),
        }
    return record


def _label_counts(sources):
    labels = sources.labels
    if labels is None:
        return None
    return {"labels": len(labels), "unmatched": labels.unmatched, "blank": labels.blank}
