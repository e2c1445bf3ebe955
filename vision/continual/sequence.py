"""A sequence of tasks: a run for each, which goes on from the one before."""

import contextlib
import csv
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision import objectives, parallel
from vision.continual.elapsed import Elapsed
from vision.continual.importance import (
    fisher_settings,
    is_measured,
    path_integral_settings,
    write_fisher,
    write_path_integral,
)
from vision.continual.summary import matrix, plot, summarize, table
from vision.data.classes import encode, renaming
from vision.data.sources import CHANGES, Opened, compose, members, open_splits, parse
from vision.errors import UserError
from vision.support import progress
from vision.support.files import replacing, replacing_path, write_json
from vision.training.finished import RESULT
from vision.training.host import Host
from vision.training.run import run

SEPARATOR = " | "  # between the sources of `config.continual.tasks`
COPIED = ("device", "onednn", "versions", "git_commit", "date", "config")  # of the last result


def run_sequence(
    config: ConfigDict, workdir: pathlib.Path, again: str = ""
) -> dict[str, Any] | None:
    """Trains one task after the other, each in `workdir`/task-N, and sums up what was kept.

    Finished tasks are not repeated, and one that was interrupted goes on.

    Args:
        config: the config of every task; `continual.tasks` names their images.
        workdir: the directory of all runs.
        again: the command that resumes the sequence, for the message of an interruption.

    Returns:
        The contents of sequence.json; None if interrupted.

    Raises:
        UserError: there are no tasks, or the config of one does not fit.
    """
    opened: Opened = {}
    sources = split_tasks(config, opened)
    is_within = _is_within_task(config)
    elapsed = Elapsed(workdir)
    directories = [workdir / f"task-{number}" for number in range(1, len(sources) + 1)]
    is_done = all(map(_is_finished, directories))
    results = []
    with _progress(config, len(sources)) as work:
        previous: pathlib.Path | None = None
        for directory, source in zip(directories, sources, strict=True):
            try:
                result = _learn(config, source, directory, previous, again, opened)
            finally:
                if directory.is_dir() and not is_done:
                    elapsed.save()
            if result is None:
                return None
            results.append(result)
            work.reach(len(results))
            previous = directory
    return _write(workdir, results, is_within, elapsed.before if is_done else elapsed.save())


def _learn(
    config: ConfigDict,
    source: str,
    directory: pathlib.Path,
    previous: pathlib.Path | None,
    again: str,
    opened: Opened,
) -> dict[str, Any] | None:
    """Returns the result of a task, None if interrupted."""
    if previous is not None and not _is_finished(directory):
        _measure_importance(config, str(previous), opened)
    host = Host(opened=opened)
    return run(_task_config(config, source, previous), directory, again=again, host=host)


def _is_finished(directory: pathlib.Path) -> bool:
    return parallel.all_agree((directory / RESULT).is_file())


@contextlib.contextmanager
def _progress(config: ConfigDict, tasks: int) -> Iterator[progress.Progress]:
    """Shows how many tasks are done, unless the config wants no progress."""
    with contextlib.ExitStack() as stack:
        if not config.log.progress:
            stack.enter_context(progress.quiet())
        yield stack.enter_context(progress.Progress("tasks", tasks))


def split_tasks(config: ConfigDict, opened: Opened | None = None) -> list[str]:
    """Returns the sources of `config.continual.tasks`, in their order.

    Args:
        config: the config of every task.
        opened: sources that are open already; see `open_splits`.

    Raises:
        UserError: there are none, they cannot be made of `data.source`, or the config says
            otherwise where to go on from.
    """
    c = config.continual
    if not c.tasks.strip():
        raise UserError(
            'continual.tasks names no sources: set it to a number, or to "folder:first | '
            'folder:second"; a single run is trained by python -m vision.main'
        )
    if not c.old_data:
        raise UserError(
            "continual.old_data=False cannot go with continual.tasks: without the images of "
            "earlier tasks nothing says what was forgotten"
        )
    if c.previous:
        raise UserError(
            f"continual.previous = {c.previous} and continual.tasks cannot go together: the first "
            "task starts from scratch"
        )
    if c.tasks.strip().isdecimal():
        sources = _divided_classes(config.data, int(c.tasks), c.same_classes, opened)
    else:
        names = [source.strip() for source in c.tasks.split(SEPARATOR.strip()) if source.strip()]
        sources = [_completed(config.data.source, source) for source in names]
    changes = [(s, name) for s in sources for name in parse(s)[2] if name in CHANGES]
    if changes and len(sources) > 1:
        source, name = changes[0]
        raise UserError(
            f"continual.tasks: '{source}' sets {name}, and later tasks could not be joined to it: "
            "leave it out"
        )
    return sources


def _completed(source: str, task: str) -> str:
    """Returns the source of a task, which may be only options of `data.source`: "?permute=1"."""
    if not task.startswith("?"):
        return task
    if len(members(source)) > 1:
        raise UserError(
            f"continual.tasks = '{task}' changes data.source, but that joins several sources, "
            f"{source}: name the source of each task"
        )
    kind, argument, options = parse(source)
    _, _, more = parse(f"{kind}:{argument}{task}")
    twice = sorted(options.keys() & more.keys())
    if twice:
        raise UserError(
            f"continual.tasks: '{task}' and data.source = '{source}' both set {twice[0]}: name the "
            "source of each task"
        )
    return compose(kind, argument, options | more)


def _divided_classes(
    c: ConfigDict, count: int, same_classes: bool, opened: Opened | None
) -> list[str]:
    """Returns a source for each of some tasks, which have equally many classes of `data.source`."""
    classes = next(iter(open_splits(c.source, c.bits, opened=opened).values())).classes
    size, rest = divmod(len(classes), count) if count else (0, 1)
    if rest or size < 2:
        raise UserError(
            f"continual.tasks = {count}: the {len(classes)} classes of {c.source} cannot be "
            "divided into that many tasks of equally many classes, at least two each"
        )
    sources = []
    for start in range(0, len(classes), size):
        names = classes[start : start + size]
        options = f"?classes={','.join(map(encode, names))}"
        if same_classes:
            options += f"&rename={renaming({name: str(i) for i, name in enumerate(names)})}"
        sources.append(_completed(c.source, options))
    return sources


def _task_config(config: ConfigDict, source: str, previous: pathlib.Path | None) -> ConfigDict:
    c = config.copy_and_resolve_references()
    c.continual.tasks = ""
    c.data.source = source
    if previous is None:
        c.continual.memory = ""
    else:
        c.continual.previous = str(previous)
    return c


def _measure_importance(config: ConfigDict, previous: str, opened: Opened) -> None:
    """Measures what the next task needs of a finished one, unless that is done as asked."""
    if config.objective.name != "continual":
        return
    options = objectives.define(config.objective).config.options
    c = config.continual
    asked = (c.fisher_labels, c.fisher_images, c.fisher_anchors, c.fisher_decay)
    settings = fisher_settings(*asked)
    if options.ewc and not parallel.all_agree(is_measured(previous, "fisher", settings)):
        write_fisher(previous, *asked, opened)
    settings = path_integral_settings()
    if options.si and not parallel.all_agree(is_measured(previous, "si", settings)):
        write_path_integral(previous)


def _is_within_task(config: ConfigDict) -> bool:
    if config.objective.name != "continual":
        return False
    return bool(objectives.define(config.objective).config.options.within_task)


def _write(
    workdir: pathlib.Path, results: list[dict[str, Any]], is_within: bool, seconds: float
) -> dict[str, Any]:
    """Writes sequence.json, sequence.csv and sequence.png; prints the table."""
    accuracy = matrix(results, "accuracy_within_task" if is_within else "accuracy")
    measures = summarize(accuracy)
    rows = [[None if np.isnan(a) else a for a in row] for row in accuracy.tolist()]
    record = measures | {
        "matrix": rows,
        "within_task": is_within,
        "steps": sum(result["steps"] for result in results),
        "train_seconds": sum(result["train_seconds"] for result in results),
        "seconds": seconds,
    }
    record |= {name: results[-1][name] for name in COPIED}

    def write() -> None:
        with replacing(workdir / "sequence.csv", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["after", *[f"task {j + 1}" for j in range(len(rows))]])
            writer.writerows([f"task {i + 1}", *row] for i, row in enumerate(rows))
        with replacing_path(workdir / "sequence.png") as path:
            plot(accuracy, workdir.name).savefig(path, dpi=120, format="png")
        write_json(workdir / "sequence.json", record)
        print(*table(accuracy, measures), sep="\n")

    parallel.on_main_process(write)
    return record
