"""Runs the rows of an experiment, collects what they measured, and fills the table of its README.

    python -m experiments.run fixmatch                        # every row, with its seeds
    python -m experiments.run fixmatch --only '25 labels'     # rows with this in their name
    python -m experiments.run fixmatch --seeds 0 --rows       # show the commands, run nothing
    python -m experiments.run fixmatch --table                # only fill the table once more
    python -m experiments.run he2015_resnet --only '20, 64,000'    # a long row; Ctrl-C goes on
    python -m experiments.run he2015_resnet --keep            # weights of rows finished earlier

An experiment is a folder with rows.py, which has a tuple `ROWS`, and README.md, whose table stands
between `<!-- results -->` and `<!-- end -->`. Each run is the command that a user would give, in a
directory of its own below --workdir: a finished one is not repeated, one that was stopped, by
Ctrl-C, SIGTERM (`timeout 3h python -m experiments.run ...`) or a kill, goes on, also on another
machine that has a copy of the directory. results.csv has a row for each run, and keeps those of
other machines. Rows that need a GPU or days run only if --only has their exact name, or by --large.
Once a row is finished, the weights of its seed 0 go to experiments/weights, if they fit there;
weights that are there are replaced only by --keep, which also takes other seeds.
"""

import argparse
import dataclasses
import importlib
import pathlib
import shlex
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from experiments.keep import PATIENCE, fill_page, keep
from experiments.measured import COLUMNS, MEASURES, RESULTS, measured
from experiments.process import run_module
from experiments.readme import fill
from experiments.row import HERE, Place, Row
from experiments.seeds import read_seeds
from experiments.table import mean_and_spread, read_rows, write_rows
from vision import cli
from vision.errors import UserError
from vision.support.lock import locked

NOT_RUN = "not run"
# Parts of an evaluation that no table shows: corruptions alone are 75 passes.
SKIPPED_PARTS = ("corruptions", "views", "explain", "slices")
ACCURACY_ALONE = tuple(f"--config.evaluation.{part}=False" for part in SKIPPED_PARTS)


class Command(NamedTuple):
    """A command of a row.

    Attributes:
        words: the arguments of Python.
        written: the file or directory that is there once the command is done.
    """

    words: list[str]
    written: pathlib.Path


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("experiment", help="a folder beside this file")
    p.add_argument("--only", default="", help="rows whose name contains this")
    seeds = "such as 0,1,2; default: as many as each row asks"
    p.add_argument("--seeds", type=read_seeds, default="", help=seeds)
    p.add_argument("--data", default="", help="source of the images; default: the experiment's")
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs"))
    p.add_argument("--large", action="store_true", help="also rows that take a GPU or days")
    instead = p.add_mutually_exclusive_group()
    instead.add_argument("--rows", action="store_true", help="show the commands, run nothing")
    instead.add_argument("--table", action="store_true", help="fill the table, run nothing")
    instead.add_argument("--keep", action="store_true", help="keep the rows' weights, run nothing")
    a = p.parse_args(argv)
    folder = HERE / a.experiment
    if not (folder / "rows.py").is_file():
        names = sorted(path.parent.name for path in HERE.glob("*/rows.py"))
        raise UserError(f"no experiment '{a.experiment}': choose one of {', '.join(names)}")
    module = importlib.import_module(f"experiments.{a.experiment}.rows")
    place = Place(a.experiment, a.workdir, a.data or module.DATA)
    chosen = _chosen(module.ROWS, a)
    if a.keep:
        for row, seed in _runs(chosen, a.seeds or [0]):
            keep(row, seed, place, replaces=True)
        return
    runs = [] if a.table else _runs(chosen, a.seeds)
    if a.rows:
        for row, seed in runs:
            _show(row, seed, place)
        return
    _collect(folder, module.ROWS, place)
    for row, seed in runs:
        if _commands(row, seed, place):
            is_done = _run(row, seed, place)
            _collect(folder, module.ROWS, place)
            if not is_done:
                print(f"row '{row.name}', seed {seed}: stopped; run the same command to continue")
                break
        if seed == 0:
            keep(row, seed, place)
    with locked(folder, "the folder", patience=PATIENCE):
        _fill(folder, module.ROWS)
    fill_page()


def _chosen(rows: Iterable[Row], a: argparse.Namespace) -> list[Row]:
    named = [row for row in rows if a.only in row.name]
    if not named:
        raise UserError(f"--only '{a.only}': no row of {a.experiment} has this in its name")
    # Weights are kept of what is finished, however long it took.
    chosen = [row for row in named if not row.large or a.large or a.keep or row.name == a.only]
    if not chosen:
        raise UserError(
            f"--only '{a.only}': '{named[0].name}' takes a GPU or days: give its exact name, or "
            "--large for all of them"
        )
    return chosen


def _runs(rows: Iterable[Row], seeds: list[int]) -> list[tuple[Row, int]]:
    """Returns (row, seed) in an order in which the whole table has one seed early."""
    rows = list(rows)
    numbers = seeds or range(max(row.seeds for row in rows))
    wanted = ((row, seed) for seed in numbers for row in rows)
    return [(row, seed) for row, seed in wanted if seeds or seed < row.seeds]


def _show(row: Row, seed: int, place: Place) -> None:
    """Prints the commands of a row that are not done."""
    for words, _ in _commands(row, seed, place):
        print("python", shlex.join(words))


def _run(row: Row, seed: int, place: Place) -> bool:
    """Trains, probes and draws images for one row, as far as that is not done.

    Returns:
        False if a signal has come, to this process or to the command alone.

    Raises:
        UserError: a run that the row starts from is not finished, or a command failed.
    """
    _check_runs(row, seed, place)
    for words, written in _commands(row, seed, place):
        print("python", shlex.join(words), flush=True)
        # A training that is told to stop ends well too, but without its result.
        if not run_module(words, f"row '{row.name}', seed {seed}") or not written.exists():
            return False
    return True


def _check_runs(row: Row, seed: int, place: Place) -> None:
    """Raises `UserError` if a run that the training of a row names is not finished."""
    if (place.directory(row.name, seed) / RESULTS[row.command]).is_file():
        return
    for text in (row.config, *map(str, row.flags.values())):
        for experiment, name, other in place.runs(text, seed):
            rows = importlib.import_module(f"experiments.{experiment}.rows").ROWS
            of_row = next(r for r in rows if r.name == name)
            if _commands(of_row, other, dataclasses.replace(place, name=experiment)):
                words = [experiment, "--only", name, "--seeds", str(other)]
                words += ["--workdir", str(place.workdir)]
                words += ["--data", place.data] if experiment == place.name else []
                raise UserError(
                    f"row '{row.name}', seed {seed}, starts from a run that is not finished.\n"
                    f"Run first: python -m experiments.run {shlex.join(words)}"
                )


def _commands(row: Row, seed: int, place: Place) -> list[Command]:
    """Returns the commands of a row that are not done."""
    workdir = place.directory(row.name, seed)
    commands = []
    if not (workdir / RESULTS[row.command]).is_file():
        commands += _training(row, seed, place)
    stages = {
        "probe": ("vision.evaluation.probe",),
        "zero_shot": ("vision.evaluation", "--zero-shot=classes", *ACCURACY_ALONE),
        "retrieval": ("vision.evaluation.retrieval",),
    }
    for stage, file in row.outputs(workdir).items():
        if not file.is_file():
            out = file.parent if stage == "zero_shot" else file
            words = ["-m", *stages[stage], f"--workdir={workdir}", f"--out={out}"]
            commands.append(Command(words, file))
    importance = workdir / "importance" / "fisher.safetensors"
    if row.importance and not importance.is_file():
        words = ["-m", "vision.continual.importance", f"--workdir={workdir}"]
        commands.append(Command(words, importance))
    synthetic = workdir / "synthetic"
    if row.synthesize and not synthetic.is_dir():
        words = ["-m", "vision.synthesize", f"--workdir={workdir}", f"--out={synthetic}"]
        commands.append(Command([*words, *shlex.split(row.synthesize)], synthetic))
    return commands


def _training(row: Row, seed: int, place: Place) -> list[Command]:
    """Returns the commands that train a row: one, or two if a run is pruned first."""
    workdir = place.directory(row.name, seed)
    flags = {"seed": seed} | dict(row.flags)
    if row.prune:
        del flags["seed"]  # that of the run which is pruned, whose split it has
    settings = [f"--config.{key}={place.fill(str(value), seed)}" for key, value in flags.items()]
    source = place.fill(row.config, seed)
    result = workdir / RESULTS[row.command]
    if not row.prune:
        words = ["-m", row.command, "--config", source, f"--workdir={workdir}"]
        return [Command(words + settings, result)]
    train = Command(["-m", row.command, f"--workdir={workdir}"], result)
    pruned = workdir / "pruning.json"
    if pruned.is_file():
        return [train]
    prune = ["-m", "vision.compression.prune", f"--workdir={source}", f"--out={workdir}"]
    return [Command([*prune, *shlex.split(row.prune), *settings], pruned), train]


def _collect(folder: pathlib.Path, rows: Iterable[Row], place: Place) -> None:
    """Brings results.csv up to date with the finished runs; waits for others that do so."""
    with locked(folder, "the folder", patience=PATIENCE):
        _write_results(folder, rows, place)


def _write_results(folder, rows, place):
    # A row may have a seed of its own, whatever number its directory has.
    seeds = {row.name: row.flags["seed"] for row in rows if "seed" in row.flags}
    results = {}
    for r in _read(folder):
        used = str(seeds.get(r["row"], r["seed"]))
        results[r["row"], used] = r | {"seed": used}
    for row in rows:
        for seed in range(100):
            numbers = measured(row, place.directory(row.name, seed))
            if numbers:
                used = str(seeds.get(row.name, seed))
                results[row.name, used] = {"row": row.name, "seed": used} | numbers
    order = {row.name: i for i, row in enumerate(rows)}
    kept = [r for r in results.values() if r["row"] in order]
    if not kept:
        return
    kept.sort(key=lambda r: (order[r["row"]], int(r["seed"])))
    write_rows(folder / "results.csv", COLUMNS, kept)


def _read(folder: pathlib.Path) -> list[dict[str, str]]:
    # A table of an earlier version of this file may lack a column.
    return [dict.fromkeys(COLUMNS, "") | row for row in read_rows(folder / "results.csv")]


def _fill(folder: pathlib.Path, rows: Iterable[Row]) -> None:
    """Writes the table into the experiment's README."""
    readme = folder / "README.md"
    results = _read(folder)
    filled = {name for name in MEASURES if any(r.get(name) for r in results)}
    names = {r["row"] for r in results}
    if any(row.reach and row.name in names for row in rows):
        filled.add("reached")
    shown = [name for name in MEASURES if name in filled] or ["accuracy"]
    titles = ["row", *(MEASURES[name] for name in shown), "published", "steps", "minutes", "where"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        of_row = [r for r in results if r["row"] == row.name]
        cells = [row.name, *(_summary(row, of_row, name) for name in shown), row.published]
        if of_row:
            minutes = statistics.mean(float(r["minutes"]) for r in of_row)
            cells += [f"{int(of_row[-1]['steps']):,}", f"{minutes:.1f}", _places(of_row)]
        else:
            cells[1] = NOT_RUN
            cells += ["", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    fill(readme, lines)
    print(f"{readme}: filled")


def _places(results: list[dict[str, str]]) -> str:
    """Returns for each device when a row was run there, and at which commits."""
    places = []
    for device in dict.fromkeys(r["device"] for r in results):
        of_device = [r for r in results if r["device"] == device]
        dates = sorted({r["date"] for r in of_device})
        days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        commits = dict.fromkeys(r["commit"] for r in of_device)
        places.append(", ".join((device, days, *commits)))
    return "; ".join(places)


def _summary(row: Row, results: list[dict[str, str]], name: str) -> str:
    """Returns the mean over seeds with the standard deviation, as a cell of the table."""
    values = [float(r[name]) for r in results if r.get(name)]
    if name == "reached" and row.reach and len(values) < len(results):
        # The mean of those that did would flatter the row.
        return f"reached by {len(values)} of {len(results)}"
    return mean_and_spread(values) if values else ""


if __name__ == "__main__":
    cli.run(main)
