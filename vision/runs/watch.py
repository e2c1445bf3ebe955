"""Follows runs in the terminal: the table in place, or a line for each change elsewhere."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence

from vision import cli
from vision.runs import table
from vision.runs.record import STATES, Run
from vision.support import progress

SECONDS = 2.0  # between two looks
UP = "\x1b[{}F\x1b[J"  # to the beginning of a line so many above; what follows is cleared


def watch(read: Callable[[], Sequence[Run]]) -> None:
    """Shows runs until Ctrl-C.

    Args:
        read: returns the runs as they are now, in their order.
    """
    show = _in_place() if sys.stdout.isatty() else _changes()
    with progress.quiet():
        while True:
            show(sorted(read(), key=lambda run: STATES.index(run.state)))
            time.sleep(SECONDS)


def _in_place() -> Callable[[Sequence[Run]], None]:
    """Returns a function that shows a table in the place of the one before."""
    height = 0

    def show(runs: Sequence[Run]) -> None:
        nonlocal height
        size = shutil.get_terminal_size()
        most = max(1, size.lines - 4)
        texts = table.lines(table.rows(runs[:most]), size.columns)
        if len(runs) > most:
            texts.append(f"and {len(runs) - most:,} more")
        counts = f"{_counts(runs)}; {time.strftime('%H:%M:%S')}; Ctrl-C ends"
        texts.append(table.cut(counts, size.columns))
        if height:
            print(UP.format(height), end="")
        cli.show(*texts)
        height = len(texts)

    return show


def _changes() -> Callable[[Sequence[Run]], None]:
    """Returns a function that shows the table once, then a line for each run that has changed."""
    before: dict[str, tuple[str, int]] | None = None

    def show(runs: Sequence[Run]) -> None:
        nonlocal before
        now = {run.name: (run.state, run.steps) for run in runs}
        if before is None:
            cli.show(*table.lines(table.rows(runs)), _counts(runs))
            before = now
        for run in runs:
            if before.get(run.name) != now[run.name]:
                cli.show(_line(run))
        before = now

    return show


def _line(run: Run) -> str:
    row = table.rows([run])[0]
    parts = [f"step {row['steps']}"]
    parts += [f"{head} {row[head]}" for head in ("loss", "validation", "test") if row[head]]
    parts += [f"{row['left']} left"] if row["left"] else []
    return f"{run.name}: {row['state']}, {', '.join(parts)}{f': {run.reason}' * bool(run.reason)}"


def _counts(runs: Sequence[Run]) -> str:
    """Returns how many runs there are in each state."""
    counts = [(sum(run.state == state for run in runs), state) for state in STATES]
    return ", ".join(f"{count:,} {state}" for count, state in counts if count) or "no runs"
