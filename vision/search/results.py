"""What a study has found: trials.csv, best.py, report.html and what the command prints."""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from vision.errors import printable
from vision.search import best, repeats
from vision.search.queue import PLACE, REASON, is_lost, place_of
from vision.search.request import Request
from vision.search.study import Job
from vision.search.trial import metric_lines, resource
from vision.support.files import filling, replacing, write_json

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One trial of the results.

    Attributes:
        place: its number, from 0.
        name: its name, which is that of its run's directory.
        state: "complete", "pruned", "failed", "running" or "waiting".
        values: of the objectives; of a pruned trial the last one that was measured.
        reason: why it failed or was pruned.
        parameters: {name: value}.
        images, seconds: what it has cost.
        curve: [(percent of the training, value of the first objective)] of its validations.
    """

    place: int
    name: str
    state: str
    values: tuple[float, ...]
    reason: str
    parameters: Mapping[str, Any]
    images: int
    seconds: float
    curve: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Results:
    """All that the report shows.

    Attributes:
        request: the search.
        rows: a row for each place.
        best: the rows from best to worst: complete ones only.
        repeated: what came of the best configs with several seeds; () if they were not repeated.
        lost: trials whose worker ended before they did.
        parameters: names of all parameters.
    """

    request: Request
    rows: tuple[Row, ...]
    best: tuple[Row, ...]
    repeated: tuple[repeats.Repeated, ...]
    lost: int
    parameters: tuple[str, ...]


def read_results(request: Request, storage: BaseStorage, job: Job) -> Results:
    """Returns the results of a study as it stands."""
    newest = job.queue.latest()
    rows = {place: _row(request, job, trial) for place, trial in newest.items()}
    repeated: list[repeats.Repeated] = []
    if request.repeat:
        again = repeats.plan(request, storage, job)
        repeated = repeats.collect(request, again) if again is not None else []
    names = dict.fromkeys(name for row in rows.values() for name in row.parameters)
    return Results(
        request=request,
        rows=tuple(rows.values()),
        best=tuple(rows[place_of(trial)] for trial in repeats.best_trials(job)),
        repeated=tuple(repeated),
        lost=sum(map(is_lost, job.queue.trials())),
        parameters=tuple(names),
    )


def _row(request: Request, job: Job, trial: FrozenTrial) -> Row:
    place = place_of(trial)
    attributes = trial.user_attrs
    objective = next(iter(job.objectives))
    curve = sorted((float(step), value) for step, value in trial.intermediate_values.items())
    if not curve:
        lines = metric_lines(request.out / job.folder / job.name(place))
        points = [(line["step"], line[objective]) for line in lines if objective in line]
        last = max((step for step, _ in points), default=1)
        total = last if trial.state == TrialState.COMPLETE else max(last, 1)
        curve = [
            (float(resource(job.config, job.config, step / total)), float(value))
            for step, value in points
        ]
    values = tuple(trial.values or ())
    if not values and trial.state == TrialState.PRUNED and curve:
        values = (curve[-1][1],)
    return Row(
        place=place,
        name=job.name(place),
        state=STATES[trial.state],
        values=values,
        reason=str(attributes.get(REASON, "")),
        parameters=trial.params or trial.system_attrs.get("fixed_params", {}),
        images=int(attributes.get("images", 0)),
        seconds=float(attributes.get("seconds", 0)),
        curve=tuple(curve),
    )


def write_results(results: Results, job: Job) -> list[str]:
    """Writes the files of the results into the study's directory, and returns lines about them."""
    from vision.search.report import page

    request = results.request
    with filling(request.out) as folder:
        _write_table(folder / "trials.csv", results)
        write_json(folder / "results.json", _summary(results))
        if results.best:
            (folder / "best.py").write_text(_best_file(results, job), "utf-8")
        with replacing(folder / "report.html") as file:
            file.write(page(results))
    return describe(results)


def _write_table(path: pathlib.Path, results: Results) -> None:
    objectives = list(results.request.objectives)
    columns = ["trial", "state", *objectives, "images", "seconds", *results.parameters, "reason"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in results.rows:
            values = [*row.values, *[""] * len(objectives)][: len(objectives)]
            chosen = [row.parameters.get(name, "") for name in results.parameters]
            reason = printable(row.reason)
            writer.writerow(
                [row.name, row.state, *values, row.images, row.seconds, *chosen, reason]
            )


def _summary(results: Results) -> dict[str, Any]:
    request = results.request
    counts = {state: sum(row.state == state for row in results.rows) for state in STATES.values()}
    return {
        "name": request.name,
        "command": request.command,
        "objectives": request.objectives,
        "trials": {state: count for state, count in counts.items() if count},
        "lost": results.lost,
        "images": sum(row.images for row in results.rows),
        "seconds": round(sum(row.seconds for row in results.rows), 1),
        "best": results.best[0].name if results.best else None,
        "repeated": [_repeated_summary(results, r) for r in results.repeated],
    }


def _repeated_summary(results: Results, repeated: repeats.Repeated) -> dict[str, Any]:
    return {
        "config": repeated.name,
        "seeds": list(repeated.seeds),
        "validation": list(repeated.validation.values()),
        "test": list(repeated.test.values()),
        "images": repeated.images,
        "seconds": repeated.seconds,
    }


def chosen_row(results: Results) -> Row:
    """Returns the trial whose config is written: by the repetitions if there are any."""
    way = next(iter(results.request.objectives.values()))
    candidates = [r for r in results.repeated if r.name != repeats.DEFAULT]
    if candidates:
        name = repeats.chosen_config(candidates, way)
        return next(row for row in results.best if row.name == name)
    return results.best[0]


def front(results: Results) -> list[Row]:
    """Returns the complete trials that no other beats in every objective, of several."""
    signs = [-1 if way == "max" else 1 for way in results.request.objectives.values()]

    def costs(row: Row) -> list[float]:
        return [sign * value for sign, value in zip(signs, row.values, strict=True)]

    def is_beaten(row: Row) -> bool:
        own = costs(row)
        return any(
            all(a <= b for a, b in zip(costs(other), own, strict=True)) and costs(other) != own
            for other in results.best
        )

    return [row for row in results.best if not is_beaten(row)]


def _best_file(results: Results, job: Job) -> str:
    """Returns the text of best.py."""
    row = chosen_row(results)
    request = results.request
    trial: Any = optuna.trial.FixedTrial(dict(row.parameters))
    trial.set_user_attr(PLACE, row.place)
    config = job.space.apply(trial, request.config)
    counts = f"{len(results.best)} of {len(results.rows)} trials were trained to the end"
    objective = ", ".join(
        f"{name} {value:.4g}" for name, value in zip(request.objectives, row.values, strict=False)
    )
    origin = [
        f"Trial {row.name} of the study '{request.name}': {objective} on the validation split.",
        f"{counts}; the search trained on {sum(r.images for r in results.rows):,} images "
        f"in {sum(r.seconds for r in results.rows):,.0f} s.",
        f"What was chosen: {json.dumps(dict(row.parameters))}",
    ]
    evidence = verdict_of(results, row.name) or [
        "The best of many trials is partly the luckiest: repeat it with other seeds before you",
        "call it better (--repeat 3 --seeds 0,1,2).",
    ]
    title = f"The best config that a search of {request.spec} has found."
    lines = best.docstring(title, request.command, origin, evidence)
    return best.config_file(config, lines, best.changed_keys(config, request.config))


def verdict_of(results: Results, name: str) -> list[str]:
    """Returns sentences on a repeated config beside the study's own; [] if it was not repeated."""
    by_name = {repeated.name: repeated for repeated in results.repeated}
    own = by_name.get(name)
    default = by_name.get(repeats.DEFAULT)
    if own is None or default is None or not set(own.seeds) & set(default.seeds):
        return []
    objective, way = next(iter(results.request.objectives.items()))
    on_test = bool(own.test and default.test)
    measure = objective.removeprefix("val/") if on_test else objective
    where = "on the test split" if on_test else "on the validation split"
    ours = own.test if on_test else own.validation
    theirs = default.test if on_test else default.validation
    mean, low, high = repeats.interval(list(ours.values()))
    other = repeats.interval(list(theirs.values()))
    gap, gap_low, gap_high = repeats.difference(ours, theirs)
    is_better = gap_low > 0 if way == "max" else gap_high < 0
    is_worse = gap_high < 0 if way == "max" else gap_low > 0
    finding = "which is within the spread: no improvement is shown"
    if is_better:
        finding = "an improvement beyond the spread"
    elif is_worse:
        finding = "a loss beyond the spread"
    return [
        f"With seeds {', '.join(map(str, own.seeds))}, {measure} {where}: "
        f"{mean:.4f} ({low:.4f} to {high:.4f});",
        f"the searched config as it was given: {other[0]:.4f} ({other[1]:.4f} to {other[2]:.4f}).",
        f"Difference by seed: {gap:+.4f} ({gap_low:+.4f} to {gap_high:+.4f}, 95 %), {finding}.",
    ]


def describe(results: Results) -> list[str]:
    """Returns the lines that the command prints at its end."""
    request = results.request
    counts = [
        f"{sum(row.state == state for row in results.rows)} {state}" for state in STATES.values()
    ]
    shown = ", ".join(text for text in counts if not text.startswith("0 "))
    images = sum(row.images for row in results.rows)
    seconds = sum(row.seconds for row in results.rows)
    lines = [f"{shown}; {images:,} images in {seconds:,.0f} s of training"]
    if results.best:
        row = chosen_row(results)
        values = ", ".join(
            f"{name} {value:.4f}"
            for name, value in zip(request.objectives, row.values, strict=False)
        )
        chosen = ", ".join(f"{name}={value}" for name, value in row.parameters.items())
        lines.append(f"best: trial {row.name}, {values}: {chosen}")
        lines += verdict_of(results, row.name)
        lines.append(f"{request.out}/best.py runs it; {request.out}/report.html, trials.csv")
    else:
        lines.append(f"no trial has finished: {request.out}/trials.csv says why")
    return lines


def states(rows: Sequence[Row]) -> dict[str, int]:
    """Returns {state: number of trials} of the states that occur."""
    counts = {state: sum(row.state == state for row in rows) for state in STATES.values()}
    return {state: count for state, count in counts.items() if count}
