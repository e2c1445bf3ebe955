"""The report of a study: what was tried, what mattered, what it cost, and what may be claimed."""

import datetime
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution

from vision.data.pictures import data_uri
from vision.search import figures, repeats
from vision.search.results import Results, Row, chosen_row, front, states, uncounted, verdict_of
from vision.support.page import render

TEMPLATE = pathlib.Path(__file__).with_name("report.html")
LEAST = 8  # complete trials from which an importance means anything
LISTED = 200  # trials in the table
PICTURES = ("history", "importances", "parallel", "slices", "curves", "pareto")
DIGITS = 4  # of a number in the table


def page(results: Results) -> str:
    """Returns the text of report.html."""
    request = results.request
    finished = [row for row in results.rows if row.state in ("complete", "pruned", "failed")]
    ways = {"max": "higher is better", "min": "lower is better"}
    context = {
        "name": request.name,
        "command": request.command,
        "date": datetime.date.today().isoformat(),
        "objectives": [(name, ways[way]) for name, way in request.objectives.items()],
        "searched": request.space or f"sweep() of {request.spec}",
        "config": request.spec,
        "sampler": request.sampler if request.space else "each override once",
        "pruner": request.pruner,
        "states": states(results.rows),
        "lost": results.lost,
        "images": sum(row.images for row in results.rows),
        "seconds": sum(row.seconds for row in results.rows),
        "uncounted": uncounted(results),
        "best": _cells(results, chosen_row(results)) if results.best else None,
        "repeated": _repeated(results),
        "verdict": verdict_of(results, chosen_row(results).name) if results.best else [],
        "seeds": _seeds(results),
        "figures": _figures(results),
        "importances": importances(results),
        "front": [_cells(results, row) for row in front(results)] if _is_multi(results) else [],
        "parameters": results.parameters,
        "rows": [_cells(results, row) for row in _ordered(results)[:LISTED]],
        "hidden": max(0, len(results.rows) - LISTED),
        "finished": len(finished),
    }
    return render(TEMPLATE, context)


def importances(results: Results) -> dict[str, float]:
    """Returns {parameter: share of the objective's variance}, the largest first, by fANOVA.

    Hutter et al. 2014 (An efficient approach for assessing hyperparameter importance): a random
    forest is fitted to the complete trials, and its variance divided among the parameters. {} if
    fewer than `LEAST` are complete, or nothing varies.
    """
    rows = [row for row in results.best if set(results.parameters) <= set(row.parameters)]
    values = [row.values[0] for row in rows]
    names = [n for n in results.parameters if len({repr(r.parameters[n]) for r in rows}) > 1]
    if len(rows) < LEAST or not names or np.ptp(values) == 0:
        return {}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    distributions = {name: _distribution([row.parameters[name] for row in rows]) for name in names}
    for row, value in zip(rows, values, strict=True):
        chosen = {name: row.parameters[name] for name in names}
        study.add_trial(
            optuna.trial.create_trial(params=chosen, distributions=distributions, value=value)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def _distribution(values: list[Any]) -> optuna.distributions.BaseDistribution:
    """Returns a range or a list of choices that holds some values."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        is_wide = min(values) > 0 and max(values) / min(values) >= figures.LOG_RATIO
        return FloatDistribution(min(values), max(values), log=is_wide)
    return CategoricalDistribution(sorted(set(values), key=str))


def _figures(results: Results) -> dict[str, str]:
    """Returns {name: data URI} of the pictures, "" for one that would show nothing."""
    pictures = dict.fromkeys(PICTURES, b"")
    if any(row.values for row in results.rows):
        pictures["history"] = figures.history(results)
    shares = importances(results)
    if shares:
        pictures["importances"] = figures.bars(shares)
    if len(results.best) > 1 and figures.varied(results):
        pictures["parallel"] = figures.parallel_coordinates(results)
        pictures["slices"] = figures.slices(results)
    if any(len(row.curve) > 1 for row in results.rows):
        pictures["curves"] = figures.curves(results)
    if _is_multi(results) and results.best:
        pictures["pareto"] = figures.pareto(results)
    return {name: data_uri(data) if data else "" for name, data in pictures.items()}


def _is_multi(results: Results) -> bool:
    return len(results.request.objectives) > 1


def _ordered(results: Results) -> list[Row]:
    """Returns the rows for the table: the best first, then those that did not finish."""
    places = {row.place for row in results.best}
    others = [row for row in results.rows if row.place not in places]
    return [*results.best, *sorted(others, key=lambda row: (row.state != "pruned", row.place))]


def _cells(results: Results, row: Row) -> dict[str, Any]:
    values = [*row.values, *[None] * len(results.request.objectives)]
    return {
        "name": row.name,
        "state": row.state,
        "values": ["" if v is None else f"{v:.4g}" for v in values][
            : len(results.request.objectives)
        ],
        "images": row.images,
        "seconds": row.seconds,
        "parameters": [_number(row.parameters.get(name, "")) for name in results.parameters],
        "reason": row.reason,
    }


def _number(value: Any) -> str:
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def _repeated(results: Results) -> list[dict[str, Any]]:
    """Returns a line of the table for each config that was trained with several seeds."""
    lines = []
    metric = results.request.objective
    default = next((r for r in results.repeated if r.name == repeats.DEFAULT), None)
    for r in results.repeated:
        line: dict[str, Any] = {
            "name": "the config as given" if r.name == repeats.DEFAULT else f"trial {r.name}",
            "validation": repeats.interval(list(r.validation.values()), metric),
            "test": repeats.interval(list(r.test.values()), metric) if r.test else None,
            "gap": None,
            "images": r.images,
            "seconds": r.seconds,
            "seeds": len(r.seeds),
        }
        if default is not None and r is not default and r.test and default.test:
            line["gap"] = repeats.difference(r.test, default.test, metric)
        lines.append(line)
    return lines


def _seeds(results: Results) -> list[Mapping[str, Any]]:
    """Returns a line for each override of a sweep that was run with several seeds."""
    if results.request.space or "seed" not in results.parameters:
        return []
    groups: dict[str, list[Row]] = {}
    for row in results.rows:
        if row.state == "complete":
            rest = {name: v for name, v in row.parameters.items() if name != "seed"}
            text = ", ".join(f"{name}={_number(v)}" for name, v in rest.items()) or "no override"
            groups.setdefault(text, []).append(row)
    metric = results.request.objective
    return [
        {
            "name": text,
            "values": repeats.interval([row.values[0] for row in rows], metric),
            "seeds": len(rows),
            "images": sum(row.images for row in rows),
            "seconds": sum(row.seconds for row in rows),
        }
        for text, rows in groups.items()
    ]
