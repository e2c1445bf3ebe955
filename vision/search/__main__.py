"""Searches for hyperparameters with Optuna, or runs a config's sweep(). Each trial is a normal run.

    python -m vision.search --config configs/digits.py --space configs/spaces/supervised.py \\
        --trials 40 --workers 2 --pruner hyperband --repeat 2 --seeds 0,1,2 --out runs/search
    python -m vision.search --config configs/longtail_mnist5k.py --seeds 0,1,2 --out runs/sweep

Writes trials/0000, trials/0001, ... (run directories), trials.csv, best.py (a config that runs as
it is), report.html and, with --repeat, repeats/. If the search is interrupted or killed, repeat the
command with the same --out to continue; a larger --trials extends it. Without --space, the config
file's sweep() yields dicts of overrides, and each is a run.

--storage says where the study is stored: by default in a journal file in --out. For many machines,
use grpc://HOST:PORT (python -m vision.search.serve serves it) or postgresql://..., put --out on a
shared disk, and run the same command on each. docs/search.md has the rest.
"""

import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from absl import flags

from vision import cli
from vision.config.flags import NO_CONFIG, parse
from vision.config.packages import check_packages
from vision.errors import UserError, check_count, check_range
from vision.search.request import (
    PRUNERS,
    SAMPLERS,
    Request,
    check_request,
    parse_objectives,
)
from vision.support import signals
from vision.support.extras import require_stage
from vision.support.memory import keep_freed_memory, use_one_arena

MOST_TRIALS = 1_000_000
MOST_WORKERS = 1024
SEEDS = 2**31


def main(argv: Sequence[str]) -> None:
    """Runs the command with its arguments, without the program's name."""
    config, values = parse(argv, __doc__, _flags)
    check_packages(config)
    require_stage("the search", "search")
    request = _request(argv, config, values)
    check_request(request)
    if config.parallel.keep_memory:
        keep_freed_memory()

    from vision.search.storage import explained, sole_user
    from vision.search.study import open_space

    open_space(request)  # its mistakes are found before anything is written
    with signals.listening(), explained(), sole_user(request.storage):
        _search(request)


def _search(request: Request) -> None:
    """Searches, and writes what was found."""
    from vision.search.storage import open_storage, patiently, remembering
    from vision.search.study import open_search

    storage = open_storage(request.storage, request.out, request.workers)
    job = patiently(lambda: open_search(request, storage))
    patiently(lambda: job.queue.fill(request.retry))
    cli.show(
        f"study '{request.name}': {job.queue.count} trials of {job.space.title}; {request.out}"
    )
    if request.workers > 1:
        from vision.search.workers import run_workers

        is_done = run_workers(request, remembering(job.queue.ended), job.queue.count)
    else:
        from vision.search.worker import Worker

        is_done = Worker(request).search()
    if not is_done:
        cli.show("interrupted: run the same command to continue")
        return
    from vision.search.output import write_results
    from vision.search.results import read_results

    cli.show(*write_results(patiently(lambda: read_results(request, storage, job)), job))


def _command(argv: Sequence[str], storage: str) -> str:
    """Returns the command line, for reports: without the password of a storage."""
    from vision.search.storage import hidden

    shown = [word.replace(storage, hidden(storage)) if storage else word for word in argv]
    return f"python -m vision.search {shlex.join(shown)}"


def _request(argv: Sequence[str], config: Any, values: flags.FlagValues) -> Request:
    """Returns what the flags ask for; raises `UserError` if they do not say it."""
    from vision.search.study import default_name

    if not values.out:
        raise UserError("where to? Give --out DIR, which holds the study and its runs")
    _check(values)
    out = pathlib.Path(values.out)
    return Request(
        values=config.to_dict(),
        spec=_spec(argv),
        command=_command(argv, values.storage),
        space=values.space,
        trials=values.trials or 0,
        workers=values.workers,
        storage=values.storage,
        name=values.name or default_name(out),
        sampler=values.sampler,
        pruner=values.pruner,
        grace=values.grace,
        objectives=parse_objectives(values.objective, config),
        repeat=values.repeat,
        seeds=_seeds(values.seeds),
        seed=values.seed,
        retry=values.retry,
        out=out,
    )


def _check(values: flags.FlagValues) -> None:
    """Raises `UserError` if a flag is out of its range, or one is missing beside another."""
    if values.trials is not None:
        check_count("--trials", values.trials, 1, MOST_TRIALS)
    elif values.space and values.sampler != "grid":
        raise UserError("how many trials? Give --trials N; only a grid and a sweep() have an end")
    check_count("--workers", values.workers, 1, MOST_WORKERS)
    check_count("--repeat", values.repeat, 0, 1000)
    check_count("--seed", values.seed, 0, SEEDS)
    check_range("--grace", values.grace, 0 < values.grace <= 1, "in (0, 1]")
    if not values.space and values.repeat:
        raise UserError(
            "--repeat is for a --space; a sweep() is repeated by --seeds 0,1,2, without --repeat"
        )


def _seeds(text: str) -> tuple[int, ...]:
    """Returns the numbers of "0,1,2"; raises `UserError` for anything else."""
    try:
        seeds = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise UserError(f"--seeds must be integers joined by commas, got {text}") from error
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text} has a seed twice")
    for seed in seeds:
        check_count("--seeds", seed, 0, SEEDS)
    return seeds


def _spec(argv: Sequence[str]) -> str:
    """Returns the value of --config."""
    for number, argument in enumerate(argv):
        if argument.startswith("--config="):
            return argument.removeprefix("--config=")
        if argument == "--config":
            return argv[number + 1]
    raise UserError(NO_CONFIG)


def _flags(values: flags.FlagValues) -> None:
    def text(name: str, default: str, meaning: str) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    def number(name: str, default: int | None, meaning: str) -> None:
        flags.DEFINE_integer(name, default, meaning, flag_values=values)

    text("space", "", "FILE[:ARGUMENT] with space(trial, config); default: sweep() of --config")
    number("trials", None, "total number of trials; default: the whole grid")
    text("out", "", "directory of the study: runs, trials.csv, best.py, report.html")
    number("workers", 1, "processes on this machine, which divide its cores and GPUs")
    text("storage", "", "journal:FILE, grpc://HOST:PORT, postgresql://...")
    text("name", "", "name of the study in the storage; default: the name of --out")
    text("sampler", "tpe", ", ".join(SAMPLERS))
    text("pruner", "none", ", ".join(PRUNERS))
    flags.DEFINE_float(
        "grace", 0.1, "share of the training before which nothing is pruned", flag_values=values
    )
    text("objective", "", "MEASURE[:max|min],...; default: the config's checkpoint.metric")
    number("repeat", 0, "retrain this many of the best configs, and the given one, with --seeds")
    text("seeds", "", "seeds of --repeat, or of each override of a sweep(), such as 0,1,2")
    number("seed", 0, "seed of the sampler")
    flags.DEFINE_bool("retry", False, "retry failed trials", flag_values=values)


if __name__ == "__main__":
    use_one_arena()  # before the progress of the command starts a thread
    cli.run(main, outlives_output=True)
