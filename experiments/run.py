"""Runs the rows of an experiment, collects what they measured, and fills the table of its README.

    python -m experiments.run fixmatch                        # every row, with its seeds
    python -m experiments.run fixmatch --only '25 labels'     # rows with this in their name
    python -m experiments.run fixmatch --seeds 0 --rows       # show the commands, run nothing
    python -m experiments.run fixmatch --table                # only fill the table once more

An experiment is a folder with rows.py, which has a tuple `ROWS`, and README.md, whose table stands
between `<!-- results -->` and `<!-- end -->`. Each run is the command that a user would give, in a
directory of its own below --workdir: a finished one is not repeated, one that was stopped goes on.
results.csv has a row for each run, and keeps those of other machines.
"""

import argparse
import csv
import dataclasses
import importlib
import json
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.readme import fill
from vision import cli
from vision.errors import UserError

HERE = pathlib.Path(__file__).parent
COLUMNS = (
    "row",
    "seed",
    "accuracy",
    "balanced",
    "linear",
    "knn",
    "zero_shot",
    "image_to_text",
    "text_to_image",
    "old",
    "new",
    "forgotten",
    "steps",
    "minutes",
    "device",
    "jax",
    "date",
    "commit",
)
MEASURES = {
    "accuracy": "test accuracy",
    "balanced": "balanced accuracy",
    "linear": "linear probe",
    "knn": "k-NN",
    "zero_shot": "zero-shot accuracy",
    "image_to_text": "image to text, recall@5",
    "text_to_image": "text to image, recall@5",
    "old": "old images",
    "new": "new images",
    "forgotten": "points forgotten",
}
RESULTS = {"vision.main": "result.json", "vision.continual": "sequence.json"}
NOT_RUN = "not run"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of an experiment's table.

    Attributes:
        name: what it is called in the table.
        config: the value of --config; {data} stands for the flag --data, {run:NAME} for the
            directory of the row NAME with the same seed, {run:NAME@0} with seed 0.
        flags: {key of the config: value}, with the same placeholders and {seed}.
        published: the figure beside it, with its source.
        seeds: number of seeds.
        probe: whether to measure the linear probe and the nearest neighbors on the test split.
        accuracy: whether the classifier's own accuracy means anything.
        zero_shot: whether to measure the accuracy of the classes' names as prompts.
        retrieval: whether to measure how images and captions find each other.
        balanced: whether to show the balanced accuracy too.
        command: the module that trains, of `RESULTS`.
        continual: whether to show the accuracy on old and new images, and what was forgotten.
        importance: whether to measure which weights matter, after the training.
        synthesize: how many images to draw after the training, as flags of vision.synthesize, such
            as "--balance"; they are in {run:NAME}/synthetic. "" = none.
    """

    name: str
    config: str
    flags: Mapping[str, object] = dataclasses.field(default_factory=dict)
    published: str = ""
    seeds: int = 3
    probe: bool = False
    accuracy: bool = True
    zero_shot: bool = False
    retrieval: bool = False
    balanced: bool = False
    synthesize: str = ""
    command: str = "vision.main"
    continual: bool = False
    importance: bool = False

    def outputs(self, workdir: pathlib.Path) -> dict[str, pathlib.Path]:
        """Returns {stage: the file that it writes} of what is measured after the training."""
        files = {
            "probe": (self.probe, workdir / "probe.json"),
            "zero_shot": (self.zero_shot, workdir / "zero_shot" / "metrics.json"),
            "retrieval": (self.retrieval, workdir / "retrieval.json"),
        }
        return {stage: file for stage, (is_wanted, file) in files.items() if is_wanted}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the runs of an experiment are, and where their images are."""

    name: str
    workdir: pathlib.Path
    data: str

    def directory(self, row: str, seed: int) -> pathlib.Path:
        """Returns the directory of a row's run."""
        slug = re.sub(r"[^\w.]+", "-", row).strip("-").lower()
        return self.workdir / self.name / f"{slug}-{seed}"

    def fill(self, text: str, seed: int) -> str:
        """Returns a text with its placeholders filled in."""
        text = re.sub(
            r"\{run:([^}@]*)(?:@(\d+))?\}",
            lambda m: str(self.directory(m[1], seed if m[2] is None else int(m[2]))),
            text,
        )
        return text.replace("{data}", self.data).replace("{seed}", str(seed))


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("experiment", help="a folder beside this file")
    p.add_argument("--only", default="", help="rows whose name contains this")
    p.add_argument("--seeds", default="", help="such as 0,1,2; default: as many as each row asks")
    p.add_argument("--data", default="", help="source of the images; default: the experiment's")
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs"))
    p.add_argument("--rows", action="store_true", help="show the commands, run nothing")
    p.add_argument("--table", action="store_true", help="fill the table, run nothing")
    a = p.parse_args(argv)
    folder = HERE / a.experiment
    if not (folder / "rows.py").is_file():
        names = sorted(path.parent.name for path in HERE.glob("*/rows.py"))
        raise UserError(f"no experiment '{a.experiment}': choose one of {', '.join(names)}")
    module = importlib.import_module(f"experiments.{a.experiment}.rows")
    place = Place(a.experiment, a.workdir, a.data or module.DATA)
    chosen = [row for row in module.ROWS if a.only in row.name]
    if not chosen:
        raise UserError(f"--only '{a.only}': no row of {a.experiment} has this in its name")
    if not a.table:
        for row, seed in _runs(chosen, a.seeds):
            _run(row, seed, place, a.rows)
            if not a.rows:
                _collect(folder, module.ROWS, place)
    if not a.rows:
        if a.table:
            _collect(folder, module.ROWS, place)
        _fill(folder, module.ROWS)


def _runs(rows: Iterable[Row], seeds: str) -> list[tuple[Row, int]]:
    """Returns (row, seed) in an order in which the whole table has one seed early."""
    rows = list(rows)
    every = range(max(row.seeds for row in rows))
    numbers = [int(seed) for seed in seeds.split(",")] if seeds else every
    wanted = ((row, seed) for seed in numbers for row in rows)
    return [(row, seed) for row, seed in wanted if seeds or seed < row.seeds]


def _run(row: Row, seed: int, place: Place, only_show: bool) -> None:
    """Trains, probes and draws images for one row, as far as that is not done."""
    workdir = place.directory(row.name, seed)
    commands = []
    if not (workdir / RESULTS[row.command]).is_file():
        flags = {"seed": seed, "log.progress": False} | dict(row.flags)
        words = ["-m", row.command, "--config", place.fill(row.config, seed)]
        words.append(f"--workdir={workdir}")
        words += [f"--config.{key}={place.fill(str(value), seed)}" for key, value in flags.items()]
        commands.append(words)
    stages = {
        "probe": ("vision.evaluation.probe",),
        "zero_shot": ("vision.evaluation", "--zero-shot=classes"),
        "retrieval": ("vision.evaluation.retrieval",),
    }
    for stage, file in row.outputs(workdir).items():
        if not file.is_file():
            out = file.parent if stage == "zero_shot" else file
            commands.append(["-m", *stages[stage], f"--workdir={workdir}", f"--out={out}"])
    if row.importance and not (workdir / "importance" / "fisher.safetensors").is_file():
        commands.append(["-m", "vision.continual.importance", f"--workdir={workdir}"])
    if row.synthesize and not (workdir / "synthetic").is_dir():
        words = ["-m", "vision.synthesize", f"--workdir={workdir}"]
        commands.append([*words, f"--out={workdir / 'synthetic'}", *shlex.split(row.synthesize)])
    for words in commands:
        print("python", shlex.join(words), flush=True)
        if not only_show:
            done = subprocess.run([sys.executable, *words])
            if done.returncode:
                raise UserError(f"row '{row.name}', seed {seed}: the command above failed")


def _collect(folder: pathlib.Path, rows: Iterable[Row], place: Place) -> None:
    """Brings results.csv up to date with the finished runs."""
    results = {(r["row"], r["seed"]): r for r in _read(folder)}
    for row in rows:
        for seed in range(100):
            measured = _measured(row, place.directory(row.name, seed))
            if measured:
                results[row.name, str(seed)] = {"row": row.name, "seed": seed} | measured
    order = {row.name: i for i, row in enumerate(rows)}
    kept = [r for r in results.values() if r["row"] in order]
    kept.sort(key=lambda r: (order[r["row"]], int(r["seed"])))
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


def _measured(row: Row, workdir: pathlib.Path) -> dict[str, object]:
    """Returns the columns of a finished run; {} if it is not finished."""
    file = workdir / RESULTS[row.command]
    outputs = row.outputs(workdir)
    if not all(path.is_file() for path in (file, *outputs.values())):
        return {}
    result = json.loads(file.read_text())
    measured = {
        "steps": result["steps"],
        "minutes": round(result["train_seconds"] / 60, 1),
        "device": result["device"] + (", oneDNN" if result["onednn"] else ""),
        "jax": result["versions"]["jax"],
        "date": result["date"][:10],
        "commit": (result["git_commit"] or "")[:8],
    }
    if row.accuracy:
        measured["accuracy"] = round(100 * result["accuracy"], 2)
    if row.balanced:
        measured["balanced"] = round(100 * result["balanced_accuracy"], 2)
    records = {stage: json.loads(path.read_text()) for stage, path in outputs.items()}
    if row.probe:
        measured["linear"] = round(100 * records["probe"]["linear_probe"], 2)
        measured["knn"] = round(100 * records["probe"]["nearest_neighbors"], 2)
    if row.zero_shot:
        measured["zero_shot"] = round(100 * records["zero_shot"]["metrics"]["accuracy"]["value"], 2)
    if row.retrieval:
        for way in ("image_to_text", "text_to_image"):
            measured[way] = round(100 * records["retrieval"][f"{way}_at_5"], 2)
    if row.continual:
        measured |= _continual(result)
    return measured


def _continual(result: Mapping[str, Any]) -> dict[str, float]:
    """Returns the columns of a run that goes on from another one, or of a sequence of tasks."""
    if "forgetting" in result:
        return {"forgotten": round(100 * result["forgetting"], 2)}
    *old, new = result["continual"]["tasks"]
    images = sum(task["images"] for task in old)
    now = sum(task["accuracy"] * task["images"] for task in old) / images
    before = sum(task["before"] * task["images"] for task in old) / images
    return {
        "old": round(100 * now, 2),
        "new": round(100 * new["accuracy"], 2),
        "forgotten": round(100 * (before - now), 2),
    }


def _read(folder: pathlib.Path) -> list[dict[str, str]]:
    file = folder / "results.csv"
    if not file.is_file():
        return []
    with file.open(newline="") as lines:
        # A table of an earlier version of this file may lack a column.
        return [dict.fromkeys(COLUMNS, "") | row for row in csv.DictReader(lines)]


def _fill(folder: pathlib.Path, rows: Iterable[Row]) -> None:
    """Writes the table into the experiment's README."""
    readme = folder / "README.md"
    results = _read(folder)
    shown = [name for name in MEASURES if any(r.get(name) for r in results)] or ["accuracy"]
    titles = ["row", *(MEASURES[name] for name in shown), "published", "steps", "minutes", "where"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        of_row = [r for r in results if r["row"] == row.name]
        cells = [row.name, *(_summary(of_row, name) for name in shown), row.published]
        if of_row:
            minutes = statistics.mean(float(r["minutes"]) for r in of_row)
            places = (f"{r['device']}, {r['date']}, {r['commit']}" for r in of_row)
            where = "; ".join(dict.fromkeys(places))
            cells += [f"{int(of_row[-1]['steps']):,}", f"{minutes:.1f}", where]
        else:
            cells[1] = NOT_RUN
            cells += ["", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    fill(readme, lines)
    print(f"{readme}: filled")


def _summary(results: list[dict[str, str]], name: str) -> str:
    """Returns the mean over seeds with the standard deviation, as a cell of the table."""
    values = [float(r[name]) for r in results if r.get(name)]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.2f}"
    if len(values) == 1:
        return f"{mean} (1 seed)"
    return f"{mean} ± {statistics.stdev(values):.2f} ({len(values)})"


if __name__ == "__main__":
    cli.run(main)
