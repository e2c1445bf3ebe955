"""What Orbax keeps beside the arrays of a checkpoint: damaged, it would not open the directory."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from vision.run.checksum import unsealed
from vision.support.reading import read_json
from vision.support.schema import Damaged, Rule, integers_within

_TIME = (integers_within(0, 2**63 - 1), None)  # nanoseconds
HEADER = {
    "item_handlers?": ({str: (str, None)}, str, None),
    "metrics?": (dict, None),
    "performance_metrics?": ({str: (float, None)}, None),
    "init_timestamp_nsecs?": _TIME,
    "commit_timestamp_nsecs?": _TIME,
    "custom_metadata?": (dict, None),
}
PARTS = ("record", "state")  # what every checkpoint has
METRICS = Rule("numbers by name", lambda values: all(map(_is_number_or_nan, values.values())))


def drop_damaged(directory: pathlib.Path, report: Callable[[str], object]) -> None:
    """Deletes headers and validations that are damaged; the checkpoints themselves remain.

    Args:
        directory: that of the checkpoints.
        report: called with a line of text about a validation. Headers are not missed.
    """
    for file in directory.glob("*/_CHECKPOINT_METADATA"):
        header = _read(file, HEADER)
        # Orbax refuses to open a directory in which one has a name that it does not know.
        if header is None or not header.keys() <= {name.rstrip("?") for name in HEADER}:
            file.unlink()
    for file in directory.glob("*/metrics/metrics"):
        values = _read(file, METRICS)
        if values is None or unsealed(values) is None:
            file.unlink()
            step = file.parent.parent.name
            report(f"the validation result of checkpoint {step} is damaged: it cannot be the best")


def surplus(
    directory: pathlib.Path,
    keep_latest: int,
    keep_best: int,
    metric: Callable[[Mapping[str, float]], float],
    least: bool,
) -> list[pathlib.Path]:
    """Returns the checkpoints that are not to be kept, and what is left of removed ones.

    Args:
        directory: that of the checkpoints.
        keep_latest: number of the newest checkpoints to keep.
        keep_best: number of the best to keep.
        metric: maps a checkpoint's validation to the value that ranks it.
        least: whether lower values are better.
    """
    paths = {int(path.name): path for path in directory.iterdir() if path.name.isdecimal()}
    complete = [
        step for step, path in paths.items() if all((path / part).is_dir() for part in PARTS)
    ]
    kept = sorted(complete)[-keep_latest:]
    values = {}
    for step in complete:
        file = paths[step] / "metrics" / "metrics"
        scalars = _read(file, METRICS) if file.is_file() else None
        if scalars is not None:
            values[step] = metric(scalars)
    # Of equal ones the newest is the best, as for Orbax.
    ranked = sorted(values, key=lambda step: (-values[step] if least else values[step], step))
    kept += ranked[-keep_best:]
    return [path for step, path in sorted(paths.items()) if step not in kept]


def _read(file: pathlib.Path, schema: Any) -> Mapping[str, Any] | None:
    """Returns the contents of a file; None if it is damaged."""
    try:
        return read_json(file, schema)
    except Damaged:
        return None


def _is_number_or_nan(value):
    return isinstance(value, float) or type(value) is int
