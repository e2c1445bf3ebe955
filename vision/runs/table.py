"""Runs as a table for the terminal."""

from collections.abc import Callable, Mapping, Sequence

from vision.errors import printable
from vision.run.curves import is_share
from vision.runs.differences import SHOWN, differing_keys, distinction, value_text
from vision.runs.query import Group, Spread
from vision.runs.record import Run

Row = Mapping[str, str]
LONGEST = {"run": 44, "model": 26, "data": 26, "differs in": 60, "reason": 80}
NUMBERS = ("test", "validation", "best step", "steps", "images/s", "time", "seed", "left", "loss")
FEW = 6  # differing keys up to which the table names them


def rows(runs: Sequence[Run]) -> list[Row]:
    """Returns the cells of each run, by the heads of the columns."""
    keys = [key for key in differing_keys(runs) if key not in SHOWN]
    return [_row(run, keys if len(keys) <= FEW else ()) for run in runs]


def group_rows(groups: Sequence[Group]) -> list[Row]:
    """Returns the cells of each group of seeds, by the heads of the columns."""
    keys = [key for key in differing_keys([g.runs[0] for g in groups]) if key not in SHOWN]
    return [
        {
            "runs": f"{len(group.runs)}",
            "seeds": ", ".join(map(str, group.seeds)),
            "model": group.runs[0].model,
            "data": group.runs[0].data,
            "test": _spread_text(group.test, "accuracy", len(group.runs)),
            "validation": _spread_text(
                group.validation, group.runs[0].shown_metric, len(group.runs)
            ),
            "time": seconds_text(group.seconds.mean if group.seconds else None),
            "differs in": distinction(group.runs[0], keys if len(keys) <= FEW else ()),
            "first run": group.runs[0].name,
        }
        for group in groups
    ]


def difference_rows(runs: Sequence[Run]) -> list[Row]:
    """Returns a row for each key in which the configs of some runs differ, results first."""
    cells = [_row(run, ()) for run in runs]
    results: list[Row] = [
        {"key": head} | {run.name: row[head] for run, row in zip(runs, cells, strict=True)}
        for head in ("state", "test", "validation", "best step", "steps", "time", "date")
    ]
    differing: list[Row] = [
        {"key": key} | {run.name: value_text(run, key) for run in runs}
        for key in differing_keys(runs, everything=True)
    ]
    return results + differing


def lines(table: Sequence[Row], width: int = 0) -> list[str]:
    """Returns the lines of a table, without columns that are empty; none of an empty table.

    Args:
        table: the rows, all with the same heads.
        width: characters of a line, beyond which the last column is cut; 0 for no limit.
    """
    heads = filled_heads(table)
    cells = [{head: _cut(printable(row[head]), head) for head in heads} for row in table]
    widths = {head: max(len(head), *(len(row[head]) for row in cells)) for head in heads}
    texts = []
    for row in ({head: head for head in heads}, *cells):
        parts = [
            row[head].rjust(widths[head]) if head in NUMBERS else row[head].ljust(widths[head])
            for head in heads
        ]
        text = "  ".join(parts).rstrip()
        texts.append(cut(text, width) if width else text)
    return texts if heads else []


def cut(text: str, width: int) -> str:
    """Returns a text of at most `width` characters, with an ellipsis for what is left out."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def filled_heads(table: Sequence[Row]) -> list[str]:
    """Returns the heads of the columns of a table that are not empty."""
    return [head for head in table[0] if any(row[head] for row in table)] if table else []


def measure_text(name: str, value: float | None) -> str:
    """Returns the value of a measure: a share in percent, other numbers as they are."""
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if is_share(name) else f"{value:.4g}"


def seconds_text(seconds: float | None) -> str:
    """Returns a time in two units at most, such as "1 h 05 min"."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours / 24:.1f} d"


def _row(run: Run, keys: Sequence[str]) -> Row:
    is_running = run.state == "running"
    steps = f"{run.steps:,}" if run.config else ""
    if run.state != "finished" and run.planned:
        steps = f"{run.steps:,}/{run.planned:,}"
    ended = f" ({run.ended})" if run.ended not in ("", "finished") else ""
    loss = run.training.get("train/loss") if run.state != "finished" else None
    validation = run.validation.get(run.shown_metric)
    text = measure_text(run.shown_metric, validation)
    if text and not run.shown_metric.endswith("/accuracy"):
        text = f"{run.shown_metric.removeprefix('val/')} {text}"
    return {
        "run": run.name,
        "state": run.state + ended,
        "model": run.model,
        "data": run.data,
        "seed": str(run.config.get("seed", "")),
        "test": measure_text("accuracy", run.test.get("accuracy")),
        "validation": text,
        "best step": "" if run.best_step is None else f"{run.best_step:,}",
        "steps": steps,
        "loss": measure_text("loss", loss),
        "images/s": f"{run.images_per_second:,.0f}" if run.images_per_second else "",
        "time": seconds_text(run.seconds),
        "left": seconds_text(run.seconds_left) if is_running else "",
        "date": run.date[:16].replace("T", " "),
        "differs in": distinction(run, keys),
        "reason": run.reason,
    }


def _spread_text(spreads: Mapping[str, Spread], name: str, runs: int) -> str:
    """Returns "98.70 ± 0.62 %" or its like; "" if none of the runs is finished."""
    spread = spreads.get(name)
    if spread is None:
        return ""
    scale = 100 if is_share(name) else 1
    form: Callable[[float], str] = "{:.2f}".format if is_share(name) else "{:.4g}".format
    deviation = "" if spread.deviation is None else f" ± {form(scale * spread.deviation)}"
    share = f" ({spread.count} of {runs})" if spread.count < runs else ""
    return f"{form(scale * spread.mean)}{deviation}{' %' * is_share(name)}{share}"


def _cut(text, head):
    return cut(text, LONGEST.get(head, len(text)))
