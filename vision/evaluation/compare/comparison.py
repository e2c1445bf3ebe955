"""What tells evaluated runs apart: the same images, classified by each, and what luck would give.

`python -m vision.evaluation.compare.__main__` prints it.
"""

import dataclasses
import json
import pathlib

import numpy as np

from vision.errors import UserError
from vision.evaluation.measures import intervals, statistics
from vision.evaluation.report.words import METRICS, amount

FILES = ("predictions.parquet", "metrics.json")
COLUMNS = (
    "row",
    "name",
    "label",
    "predicted",
    "label_index",
    "predicted_index",
    "correct",
    "confidence",
    "nll",
    "top5",
)
ALPHA = 0.05  # the chance of telling a difference where there is none
DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Run:
    """An evaluated run.

    Attributes:
        title: what it is called here.
        folder: of its files.
        known: what predictions.parquet says of itself: "classes", "source", "split", "model", and
            "data" and "seed" of the config that found the images.
        metrics: {name: number}, of its metrics.json.
        columns: {name: array (N,)} of its predictions.
    """

    title: str
    folder: pathlib.Path
    known: dict
    metrics: dict
    columns: dict

    def of(self, positions):
        """Returns the run with these images alone, int (M,)."""
        return dataclasses.replace(
            self, columns={name: v[positions] for name, v in self.columns.items()}
        )


def titles(paths):
    """Returns what to call each run: its directory's name, or if two are the same, its path."""
    folders = [pathlib.Path(path).resolve() for path in paths]
    names = [(folder.parent if folder.name == "evaluation" else folder).name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(path).rstrip("/") for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"{next(name for name in names if names.count(name) > 1)} is given twice")
    return names


def load(path, title, split=""):
    """Returns a `Run`.

    Args:
        path: a run's directory, or one with the files of its evaluation.
        title: see `Run`.
        split: that it must have been evaluated on; "" = any.

    Raises:
        UserError: it has not been evaluated, or on another split, or a file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = pathlib.Path(path)
    command = f"python -m vision.evaluation --workdir {path}"
    if not path.is_dir():
        raise UserError(f"there is no directory {path}")
    folder = path if (path / FILES[0]).is_file() else path / "evaluation"
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(
                f"{path} has not been evaluated: it has no evaluation/{name}. Run\n{command}"
            )
    try:
        table = pq.read_table(folder / FILES[0], columns=list(COLUMNS))
        known = json.loads(table.schema.metadata[b"vision"])
        known = {key: known[key] for key in ("classes", "source", "split", "model", "data", "seed")}
        metrics = json.loads((folder / FILES[1]).read_text())["metrics"]
        metrics = {name: metrics[name] for name in METRICS}
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"{folder} holds no evaluation of ours ({type(error).__name__}). Run\n{command}"
        ) from error
    if split and known["split"] != split:
        command = f"{command} --split {split} --out DIRECTORY"
        raise UserError(f"{path} was evaluated on {known['split']}, not on {split}. Run\n{command}")
    columns = {
        name: np.array(table[name].to_pylist(), object) for name in ("name", "label", "predicted")
    }
    columns |= {name: table[name].to_numpy() for name in COLUMNS if name not in (*columns, "top5")}
    true = zip(columns["label"], table["top5"].to_pylist(), strict=True)
    columns["in_top5"] = np.array([label in top for label, top in true], bool)
    return Run(title, folder, known, metrics, columns)


def align(runs):
    """Returns (runs, left out): each with the images that all of them have, in one order; the
    number of others.

    Raises:
        UserError: they were evaluated on other data, or disagree on the name or the label of an
            image.
    """
    first = runs[0]
    for run in runs[1:]:
        for key in ("source", "split"):
            if run.known[key] != first.known[key]:
                raise UserError(
                    f"{first.title} was evaluated on the {key} {first.known[key]}, {run.title} on {run.known[key]}.\n"
                    "Evaluate both on the same images: --data SOURCE --split SPLIT"
                )
        _check_classes(first, run)
    rows = first.columns["row"]
    for run in runs[1:]:
        rows = np.intersect1d(rows, run.columns["row"])
    if not len(rows):
        raise UserError("the runs have no image in common")
    every = set().union(*(run.columns["row"].tolist() for run in runs))
    aligned = []
    for run in runs:
        order = np.argsort(run.columns["row"], kind="stable")
        aligned.append(run.of(order[np.searchsorted(run.columns["row"], rows, sorter=order)]))
        for key in ("name", "label"):
            differs = np.flatnonzero(aligned[0].columns[key] != aligned[-1].columns[key])
            if len(differs):
                a, b = (one.columns[key][differs[0]] for one in (aligned[0], aligned[-1]))
                raise UserError(
                    f"image {rows[differs[0]]} has the {key} {a!r} in {first.title}, {b!r} in {run.title}: the data "
                    "have changed,\nor were divided with another seed. Evaluate both on new images: --data SOURCE"
                )
    return aligned, len(every) - len(rows)


def _check_classes(first, run):
    ours = first.known["classes"]
    theirs = run.known["classes"]
    if len(ours) != len(theirs):
        raise UserError(
            f"{first.title} knows {len(ours)} classes, {run.title} {len(theirs)}: they cannot be compared"
        )
    differs = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    if differs:
        i = differs[0]
        raise UserError(
            f"class {i} is {ours[i]!r} in {first.title}, {theirs[i]!r} in {run.title}: not the same classes"
        )


def compare(runs, left_out=0):
    """Returns what comparison.json says.

    Args:
        runs: from `align`.
        left_out: images that not all of them have.
    """
    first = runs[0]
    pairs = [_pair(first, run) for run in runs[1:]]
    corrected = statistics.holm([pair["mcnemar"]["p"] for pair in pairs])
    for pair, p in zip(pairs, corrected, strict=True):
        pair["mcnemar"]["p_holm"] = float(p)
        pair["better"], pair["verdict"] = verdict(pair, len(pairs) > 1)
    return {
        "format": 1,
        "source": first.known["source"],
        "split": first.known["split"],
        "images": len(first.columns["row"]),
        "left_out": left_out,
        "alpha": ALPHA,
        "runs": [
            {"title": run.title, "folder": str(run.folder), "model": run.known["model"]}
            | {"accuracy": float(run.columns["correct"].mean()), "metrics": run.metrics}
            for run in runs
        ],
        "comparisons": pairs,
    }


def _pair(first, other):
    """Returns how `other` differs from `first`, on the same images; differences are other -
    first."""
    a = first.columns["correct"]
    b = other.columns["correct"]
    counts = {
        "both_right": int((a & b).sum()),
        "only_first": int((a & ~b).sum()),
        "only_other": int((~a & b).sum()),
        "both_wrong": int((~a & ~b).sum()),
    }
    p = statistics.mcnemar(counts["only_first"], counts["only_other"])
    return {
        "first": first.title,
        "other": other.title,
        "mcnemar": counts | {"p": p},
        "differences": _differences(first, other),
        "per_class": _classes(first, other),
    }


def _differences(first, other):
    a = first.columns
    b = other.columns
    count = len(first.known["classes"])
    draws = []
    measured = []
    for run in (first, other):
        labels = run.columns["label_index"]
        predicted = run.columns["predicted_index"]
        draws.append(intervals.margin_draws(labels, predicted, count, DRAWS))
        once = np.ones((len(labels), 1))
        measured.append(
            intervals.from_margins(*intervals.margins(labels, predicted, count, once))[0]
        )
    found = {}
    for name in draws[0]:
        if not np.isnan(spread := draws[1][name] - draws[0][name]).all():
            value = float(measured[1][name][0] - measured[0][name][0])
            found[name] = {"difference": value} | statistics.interval(spread[~np.isnan(spread)])
    found["top5_accuracy"] = statistics.paired_bootstrap(b["in_top5"], a["in_top5"], DRAWS)
    found["nll"] = statistics.paired_bootstrap(b["nll"], a["nll"], DRAWS)
    return found


def _classes(first, other):
    """Returns what each class with images gains or loses in recall, the worst loss first."""
    labels = first.columns["label_index"]
    found = []
    for i, name in enumerate(first.known["classes"]):
        own = labels == i
        if own.any():
            a, b = (run.columns["correct"][own] for run in (first, other))
            change = statistics.paired_bootstrap(b, a, DRAWS)
            known = {
                "class": name,
                "images": int(own.sum()),
                "first": float(a.mean()),
                "other": float(b.mean()),
            }
            found.append(known | change)
    return sorted(found, key=lambda one: (one["difference"], -one["images"]))


def verdict(pair, several=False):
    """Returns (which is better: "first", "other" or "", one sentence that a person understands)."""
    counts = pair["mcnemar"]
    change = pair["differences"]["accuracy"]
    p = counts["p_holm"]
    split = counts["only_first"] + counts["only_other"]
    how = f"{'Holm-corrected ' if several else ''}p {p:.2g}" if p >= 0.0001 else "p below 0.0001"
    if not split:
        return (
            "",
            f"{pair['other']} and {pair['first']} are right on the same images: no difference.",
        )
    points = f"{100 * abs(change['difference']):.1f} points"
    low, high = sorted(100 * abs(change[end]) for end in ("low", "high"))
    if p >= ALPHA:
        return "", (
            f"No real difference between {pair['other']} and {pair['first']} can be told: {points} on these images, of "
            f"which they differ on {split:,}, is what luck gives ({how})."
        )
    better, worse = ("other", "first") if change["difference"] > 0 else ("first", "other")
    within = (
        f", 95 % interval {low:.1f} to {high:.1f}" if change["low"] * change["high"] > 0 else ""
    )
    wins = counts[f"only_{better}"]
    return better, (
        f"{pair[better]} is better than {pair[worse]}: {points} of accuracy more{within}. Of the {split:,} images "
        f"where only one of them is right, it is right on {wins:,}, more than luck gives ({how})."
    )


def table(found):
    """Returns [{"title", "cells": [{"value", "change"}] of each run}]: each metric, and its
    change."""
    rows = []
    for name, (title, share) in METRICS.items():
        cells = [
            {"value": amount(run["metrics"][name], share), "change": ""} for run in found["runs"]
        ]
        for cell, pair in zip(cells[1:], found["comparisons"], strict=True):
            if change := pair["differences"].get(name):
                cell["change"] = change_of(change, share)
        rows.append({"title": title, "cells": cells})
    return rows


def change_of(change, share):
    """Returns "+1.2 points (-0.3 to 2.7)" of a share's change, "+0.012 (-0.003 to 0.027)" of
    another number's."""
    form = (lambda x: f"{100 * x:+.1f}") if share else (lambda x: f"{x:+.3g}")
    unit = " points" if share else ""
    return f"{form(change['difference'])}{unit} ({form(change['low'])} to {form(change['high'])})"
