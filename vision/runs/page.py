"""Runs as a page: a table, their learning curves, and how their configs differ."""

import datetime
import pathlib
from collections.abc import Sequence
from typing import Any

from vision.run.curves import SHARES
from vision.run.readings import METRICS, curve, metric_lines
from vision.runs import table
from vision.runs.differences import differing_keys, value_text
from vision.runs.formats import record
from vision.runs.query import grouped
from vision.runs.record import STATES, Run
from vision.support.page import render, write_report

HERE = pathlib.Path(__file__).parent
DRAWN = 500  # runs whose curves the page has
POINTS = 160  # of a curve
FIRST_SHOWN = 6  # runs whose curves are shown at first
# (head, key of Run.values by which the column is sorted; numbers are right-aligned)
COLUMNS = (
    ("run", "name"),
    ("state", "state"),
    ("model", "model"),
    ("data", "data"),
    ("seed", "seed"),
    ("test", "accuracy"),
    ("validation", ""),
    ("best step", "best_step"),
    ("steps", "steps"),
    ("images/s", "images_per_second"),
    ("time", "seconds"),
    ("date", "date"),
    ("differs in", ""),
    ("reason", "reason"),
)
TRAINING = ("train/loss", "train/accuracy", "train/learning_rate")  # measures that are drawn


def write(out: pathlib.Path, runs: Sequence[Run], title: str) -> None:
    """Writes report.html and runs.json into a directory, which is made if it is missing.

    Raises:
        UserError, RunError: it cannot be written to.
    """
    records = [record(run) | {"config": dict(run.config)} for run in runs]
    write_report(out, page(runs, title), "runs.json", {"runs": records})


def page(runs: Sequence[Run], title: str) -> str:
    """Returns the text of report.html.

    Args:
        runs: the runs, in their order.
        title: the directories they are below.
    """
    groups = [group for group in grouped(runs) if len(group.runs) > 1]
    curves = [_curves(run) for run in runs[:DRAWN]]
    context = {
        "title": title,
        "date": datetime.datetime.now().isoformat(" ", "minutes"),
        "states": {state: sum(run.state == state for run in runs) for state in STATES},
        "columns": _columns(runs),
        "numbers": table.NUMBERS,
        "rows": _rows(runs, curves),
        "groups": table.group_rows(groups),
        "group_heads": table.filled_heads(table.group_rows(groups)),
        "data": {"runs": _data(runs, curves), "shares": SHARES},
        "measures": _measures(curves),
        "hidden": max(0, len(runs) - DRAWN),
        "own_style": (HERE / "page.css").read_text("utf-8"),
    }
    return render(HERE / "report.html", context, (HERE / "page.js").read_text("utf-8"))


def _columns(runs: Sequence[Run]) -> list[str]:
    rows = table.rows(runs)
    return [head for head, _ in COLUMNS if any(row[head] for row in rows)]


def _rows(runs: Sequence[Run], curves: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns what the table shows of each run."""
    rows = []
    drawn = 0
    for number, (run, cells) in enumerate(zip(runs, table.rows(runs), strict=True)):
        values = run.values()
        keys = {head: values.get(key, "") for head, key in COLUMNS}
        keys["validation"] = run.validation.get(run.shown_metric, "")
        keys["differs in"] = cells["differs in"]
        has_curve = number < len(curves) and bool(curves[number])
        drawn += has_curve
        rows.append(
            {
                "cells": cells,
                "keys": {head: "" if value is None else value for head, value in keys.items()},
                "state": run.state,
                "has_curve": has_curve,
                "is_shown": has_curve and drawn <= FIRST_SHOWN,
            }
        )
    return rows


def _data(runs: Sequence[Run], curves: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns what the script knows of each run."""
    keys = differing_keys(runs, everything=True)
    return [
        {
            "name": run.name,
            "best": run.best_step,
            "curves": curves[number] if number < len(curves) else {},
            "config": {key: value_text(run, key) for key in keys} if run.config else {},
        }
        for number, run in enumerate(runs)
    ]


def _curves(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Returns {measure: [(step, value)]} of a run's log, thinned out."""
    if not (run.path / METRICS).is_file():
        return {}
    lines = metric_lines(run.path)
    names = dict.fromkeys(name for line in lines for name in line)
    drawn = [name for name in names if name.startswith("val/") and name != "val/step"]
    drawn += [name for name in TRAINING if name in names]
    return {
        name: points for name in drawn if (points := _thinned(curve(lines, name), run.best_step))
    }


def _thinned(points: list[tuple[int, float]], best: int | None) -> list[tuple[int, float]]:
    """Returns evenly spaced ones of many points, in six digits, with the last and the best one."""
    every = -(-len(points) // POINTS)
    last = len(points) - 1
    kept = [p for i, p in enumerate(points) if (last - i) % every == 0 or p[0] == best]
    return [(step, float(f"{value:.6g}")) for step, value in kept]


def _measures(curves: Sequence[Any]) -> list[str]:
    """Returns the measures that any run has, those of most runs first."""
    counts: dict[str, int] = {}
    for measures in curves:
        for name in measures:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (not name.endswith("accuracy"), -counts[name]))
