"""What a run has logged, read back from metrics.jsonl."""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vision.data.loading.sampler import run_length
from vision.errors import UserError
from vision.run.directory import read_data
from vision.support.schema import is_number

METRICS = "metrics.jsonl"


def metric_lines(workdir: pathlib.Path | str) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics.jsonl that are whole; [] if there are none.

    A line is {"step": step, name: value, ...}; a number that was not finite is None.
    """
    try:
        text = pathlib.Path(workdir, METRICS).read_text("utf-8", "replace")
    except OSError:
        return []
    return parse_lines(text.splitlines())


def parse_lines(texts: Iterable[str | bytes]) -> list[dict[str, Any]]:
    """Returns the contents of lines of metrics.jsonl, without the damaged ones."""
    lines = []
    for text in texts:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):  # a killed process has not finished it
            continue
        if isinstance(values, dict) and type(values.get("step")) is int:
            lines.append(values)
    return lines


def curve(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Returns [(step, value)] of a measure, in the order of the steps, without those not finite.

    If a step occurs twice, as after a resume, its last value counts.
    """
    points = {line["step"]: line[name] for line in lines if is_number(line.get(name))}
    return sorted((step, float(value)) for step, value in points.items())


def best_point(points: Sequence[tuple[int, float]], direction: str) -> tuple[int, float] | None:
    """Returns the (step, value) whose value is the best, the last of equal ones; None of none.

    That is the checkpoint that Orbax keeps as the best.

    Args:
        points: from `curve`.
        direction: "max" or "min", from `vision.run.best.direction`.
    """
    sign = 1 if direction == "max" else -1
    return max(points, key=lambda point: (sign * point[1], point[0]), default=None)


def planned_steps(c: Any, workdir: pathlib.Path | str) -> int:
    """Returns the length of a training that has begun, in steps; 0 if that is not known.

    Args:
        c: config.train, or anything with its `steps`, `epochs` and `batch_size`.
        workdir: the run directory.
    """
    try:
        images = 0 if c.steps else read_data(workdir).get("split_sizes", {}).get("train", 0)
        return run_length(c, images)
    except UserError:
        return 0
