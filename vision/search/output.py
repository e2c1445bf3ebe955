"""What a study writes: trials.csv, results.json, best.py and report.html."""

import csv
import json
import pathlib
from typing import Any

import optuna

from vision.config import written
from vision.errors import printable
from vision.search import repeats
from vision.search.queue import PLACE
from vision.search.report import page
from vision.search.results import Results, chosen_row, states, uncounted, verdict_of
from vision.search.study import Job
from vision.support.files import filling, replacing, write_json


def write_results(results: Results, job: Job) -> list[str]:
    """Writes the files of the results into the study's directory, and returns lines about them."""
    request = results.request
    with filling(request.out) as folder:
        _write_table(folder / "trials.csv", results)
        write_json(folder / "results.json", _summary(results))
        if results.best:
            (folder / "best.py").write_text(_best_file(results, job), "utf-8")
        with replacing(folder / "report.html") as file:
            file.write(page(results))
    return describe(results)


def _write_table(path: pathlib.Path, results: Results) -> None:
    objectives = list(results.request.objectives)
    columns = ["trial", "state", *objectives, "images", "seconds", *results.parameters, "reason"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in results.rows:
            values = [*row.values, *[""] * len(objectives)][: len(objectives)]
            chosen = [row.parameters.get(name, "") for name in results.parameters]
            reason = printable(row.reason)
            writer.writerow(
                [row.name, row.state, *values, row.images, row.seconds, *chosen, reason]
            )


def _summary(results: Results) -> dict[str, Any]:
    request = results.request
    return {
        "name": request.name,
        "command": request.command,
        "objectives": request.objectives,
        "trials": states(results.rows),
        "lost": results.lost,
        "images": sum(row.images for row in results.rows),
        "seconds": round(sum(row.seconds for row in results.rows), 1),
        "best": chosen_row(results).name if results.best else None,
        "value": chosen_row(results).values[0] if results.best else None,
        "repeated": [_repeated_summary(results, r) for r in results.repeated],
    }


def _repeated_summary(results: Results, repeated: repeats.Repeated) -> dict[str, Any]:
    return {
        "config": repeated.name,
        "seeds": list(repeated.seeds),
        "validation": list(repeated.validation.values()),
        "test": list(repeated.test.values()),
        "images": repeated.images,
        "seconds": repeated.seconds,
    }


def _best_file(results: Results, job: Job) -> str:
    """Returns the text of best.py."""
    row = chosen_row(results)
    request = results.request
    trial: Any = optuna.trial.FixedTrial(dict(row.parameters))
    trial.set_user_attr(PLACE, row.place)
    config = job.space.apply(trial, request.config)
    counts = f"{len(results.best)} of {len(results.rows)} trials were trained to the end"
    objective = ", ".join(
        f"{name} {value:.4g}" for name, value in zip(request.objectives, row.values, strict=False)
    )
    origin = [
        f"Trial {row.name} of the study '{request.name}': {objective} on the validation split.",
        f"{counts}; the search trained on {sum(r.images for r in results.rows):,} images",
        f"in {sum(r.seconds for r in results.rows):,.0f} s{uncounted(results)}.",
        f"What was chosen: {json.dumps(dict(row.parameters))}",
    ]
    evidence = verdict_of(results, row.name) or [
        "The best of many trials is partly the luckiest: repeat it with other seeds before you",
        "call it better (--repeat 3 --seeds 0,1,2).",
    ]
    title = f"The best config that a search of {request.spec} has found."
    lines = written.docstring(title, request.command, origin, evidence)
    return written.config_file(config, lines, written.changed_keys(config, request.config))


def describe(results: Results) -> list[str]:
    """Returns the lines that the command prints at its end."""
    request = results.request
    shown = ", ".join(f"{count} {state}" for state, count in states(results.rows).items())
    images = sum(row.images for row in results.rows)
    seconds = sum(row.seconds for row in results.rows)
    cost = f"{images:,} images in {seconds:,.0f} s of training{uncounted(results)}"
    lines = [f"{shown}; {cost}"]
    if results.best:
        row = chosen_row(results)
        values = ", ".join(
            f"{name} {value:.4f}"
            for name, value in zip(request.objectives, row.values, strict=False)
        )
        chosen = ", ".join(f"{name}={value}" for name, value in row.parameters.items())
        lines.append(f"best: trial {row.name}, {values}: {chosen}")
        lines += verdict_of(results, row.name)
        lines.append(f"{request.out}/best.py runs it; {request.out}/report.html, trials.csv")
    else:
        lines.append(f"no trial has finished: {request.out}/trials.csv says why")
    return lines
