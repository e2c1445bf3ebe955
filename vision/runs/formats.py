"""Runs for programs: as CSV and as JSON, an object a line."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from vision.runs.differences import MISSING, differing_keys
from vision.runs.query import SEED, Group, Spread
from vision.runs.record import Run
from vision.support.cells import Writer

FORMATS = ("csv", "json")
RESULTS = ("state", "accuracy", "best_step", "steps", "seconds", "date")


def record(run: Run, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Returns a run's numbers under the names that --filter takes.

    Args:
        run: the run.
        keys: of its config, to be included.
    """
    values = run.values()
    names = [name for name in values if name not in run.config]
    own = {"name": run.name, "path": os.fspath(run.path), "state": run.state}
    return own | {name: values[name] for name in [*names, *keys] if name in values}


def write_runs(runs: Sequence[Run], form: str, out: IO[str]) -> None:
    """Writes a line for each run.

    Args:
        runs: the runs.
        form: "csv" has the keys in which the configs differ, "json" the whole config.
        out: where to.
    """
    if form == "csv":
        keys = differing_keys(runs)
        _write_csv([record(run, keys) for run in runs], out)
    else:
        _write_json([record(run) | {"config": dict(run.config)} for run in runs], out)


def write_groups(groups: Sequence[Group], form: str, out: IO[str]) -> None:
    """Writes a line for each group of seeds.

    A measure is the mean over the finished runs that have it; `MEASURE/deviation` is the sample
    standard deviation, empty for a single run, and `MEASURE/runs` their number.

    Args:
        groups: the groups.
        form: "csv" has the keys in which the configs differ, "json" the config of the first run
            without its seed.
        out: where to.
    """
    firsts = [group.runs[0] for group in groups]
    if form == "csv":
        keys = [key for key in differing_keys(firsts) if key != SEED]  # it has the column of seeds
        records = [
            _group_record(group) | {key: group.runs[0].config.get(key) for key in keys}
            for group in groups
        ]
        _write_csv(records, out)
    else:
        configs = [{k: v for k, v in run.config.items() if k != SEED} for run in firsts]
        _write_json(
            [_group_record(g) | {"config": c} for g, c in zip(groups, configs, strict=True)], out
        )


def write_difference(runs: Sequence[Run], form: str, out: IO[str]) -> None:
    """Writes a line for each result, and for each key in which the configs of the runs differ.

    Args:
        runs: the runs.
        form: "csv" has a column for each run, "json" an object {name of the run: value}, without
            the runs that lack the key.
        out: where to.
    """
    keys = [*RESULTS, *differing_keys(runs, everything=True)]
    values = {
        key: {run.name: run.values()[key] for run in runs if key in run.values()} for key in keys
    }
    if form == "csv":
        names = [run.name for run in runs]
        _write_csv(
            [
                {"key": key} | {name: cells.get(name, MISSING) for name in names}
                for key, cells in values.items()
            ],
            out,
        )
    else:
        _write_json([{"key": key, "values": cells} for key, cells in values.items()], out)


def _group_record(group: Group) -> dict[str, Any]:
    first = group.runs[0]
    seconds = {} if group.seconds is None else {"seconds": group.seconds}
    return {
        "names": [run.name for run in group.runs],
        "seeds": group.seeds,
        "model": first.model,
        "data": first.data,
    } | _spread_record({**group.test, **group.validation, **seconds})


def _spread_record(spreads: Mapping[str, Spread]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, spread in spreads.items():
        values[name] = spread.mean
        values[f"{name}/deviation"] = spread.deviation
        values[f"{name}/runs"] = spread.count
    return values


def _write_csv(records: Sequence[Mapping[str, Any]], out: IO[str]) -> None:
    heads = list(dict.fromkeys(head for values in records for head in values))
    writer = Writer(out)
    writer.writerow(heads)
    for values in records:
        writer.writerow(_cell(values.get(head)) for head in heads)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _write_json(records: Iterable[Mapping[str, Any]], out: IO[str]) -> None:
    for values in records:
        print(json.dumps(values), file=out, flush=True)
