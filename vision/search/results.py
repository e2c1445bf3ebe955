"""What a study has found: its trials, the best of them, and what may be said about it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from vision.run.readings import curve, metric_lines
from vision.search import repeats
from vision.search.queue import DIED, LOST, REASON, is_lost, place_of
from vision.search.request import Request
from vision.search.study import Job
from vision.search.trial import resource

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
        values: of the objectives; of a pruned trial the last finite one that was measured.
        reason: why it failed or was pruned.
        parameters: {name: value}.
        images, seconds: what it has cost; if it failed, as far as its metrics and its last attempt
            tell. What was trained between a checkpoint and the death of a worker counts once.
        curve: [(percent of the training, finite value of the first objective)] of its validations.
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
        killed: those of them whose worker died, so that what it had not saved was repeated.
        parameters: names of all parameters.
    """

    request: Request
    rows: tuple[Row, ...]
    best: tuple[Row, ...]
    repeated: tuple[repeats.Repeated, ...]
    lost: int
    killed: int
    parameters: tuple[str, ...]


def read_results(request: Request, storage: BaseStorage, job: Job) -> Results:
    """Returns the results of a study as it stands."""
    newest = job.queue.latest()
    rows = {place: _row(request, job, trial) for place, trial in newest.items()}
    repeated: list[repeats.Repeated] = []
    if request.repeat:
        again = repeats.plan(request, storage, job)
        repeated = repeats.collect(request, again) if again is not None else []
    lost = [trial for trial in job.queue.trials() if is_lost(trial)]
    names = dict.fromkeys(name for row in rows.values() for name in row.parameters)
    return Results(
        request=request,
        rows=tuple(rows.values()),
        best=tuple(rows[place_of(trial)] for trial in repeats.best_trials(job)),
        repeated=tuple(repeated),
        lost=len(lost),
        killed=sum(trial.user_attrs[LOST] == DIED for trial in lost),
        parameters=tuple(names),
    )


def _row(request: Request, job: Job, trial: FrozenTrial) -> Row:
    place = place_of(trial)
    attributes = trial.user_attrs
    objective = next(iter(job.objectives))
    reports = sorted((float(step), value) for step, value in trial.intermediate_values.items())
    points = [(step, value) for step, value in reports if math.isfinite(value)]
    if not reports:
        lines = metric_lines(request.out / job.folder / job.name(place))
        measured = curve(lines, objective)
        last = max((line["step"] for line in lines if objective in line), default=1)
        total = max(last, 1)
        points = [
            (float(resource(job.config, job.config, step / total)), value)
            for step, value in measured
        ]
    values = tuple(trial.values or ())
    if not values and trial.state == TrialState.PRUNED and points:
        values = (points[-1][1],)
    return Row(
        place=place,
        name=job.name(place),
        state=STATES[trial.state],
        values=values,
        reason=str(attributes.get(REASON, "")),
        parameters=trial.params or trial.system_attrs.get("fixed_params", {}),
        images=int(attributes.get("images", 0)),
        seconds=float(attributes.get("seconds", 0)),
        curve=tuple(points),
    )


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


def states(rows: Sequence[Row]) -> dict[str, int]:
    """Returns {state: number of trials} of the states that occur."""
    counts = {state: sum(row.state == state for row in rows) for state in STATES.values()}
    return {state: count for state, count in counts.items() if count}


def uncounted(results: Results) -> str:
    """Returns what the images and seconds of a search leave out, to follow them; "" if nothing."""
    return ", not counting work repeated after workers were killed" if results.killed else ""


def verdict_of(results: Results, name: str) -> list[str]:
    """Returns sentences on a repeated config beside the study's own; [] if it was not repeated."""
    by_name = {repeated.name: repeated for repeated in results.repeated}
    own = by_name.get(name)
    default = by_name.get(repeats.DEFAULT)
    if own is None or default is None or not set(own.seeds) & set(default.seeds):
        return []
    objective, way = next(iter(results.request.objectives.items()))
    measure = f"{objective} on the validation split"
    ours = own.validation
    theirs = default.validation
    if own.test and default.test:
        measure = f"{objective.removeprefix('val/')} on the test split"
        ours = own.test
        theirs = default.test
    gap = repeats.difference(ours, theirs, objective)
    return [
        f"With seeds {', '.join(map(str, own.seeds))}, {measure}: {_spread(ours, objective)};",
        f"the searched config as it was given: {_spread(theirs, objective)}.",
        f"Difference by seed: {gap[0]:+.4f} ({gap[1]:+.4f} to {gap[2]:+.4f}, 95 %), "
        f"{_finding(gap, way)}.",
    ]


def _spread(values: Mapping[int, float], metric: str) -> str:
    mean, low, high = repeats.interval(list(values.values()), metric)
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"


def _finding(gap: tuple[float, float, float], way: str) -> str:
    """Returns what may be claimed of a difference, in words."""
    _, low, high = gap
    if low <= 0 <= high:
        return "which is within the spread: no improvement is shown"
    is_better = low > 0 if way == "max" else high < 0
    return "an improvement beyond the spread" if is_better else "a loss beyond the spread"
