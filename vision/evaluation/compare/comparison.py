"""Differences between evaluated runs on the same images, and what luck alone would give.

`python -m vision.evaluation.compare` prints them.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vision.errors import UserError
from vision.evaluation.measures import intervals, statistics
from vision.evaluation.measures.margins import from_margins, margins
from vision.evaluation.report.words import METRICS, measured
from vision.metrics import TOP
from vision.reference.shares import mcnemar
from vision.reference.verdict import holm
from vision.run.calibration import EVALUATION
from vision.support.reading import parse_json, parsing, read_json
from vision.support.schema import filled

FILES = ("predictions.parquet", "metrics.json")
TEXT_COLUMNS = ("name", "label", "predicted")
NUMBER_COLUMNS = ("row", "label_index", "predicted_index", "correct", "confidence", "nll")
HEADER = {
    "classes": filled(str),
    "source": str,
    "split": str,
    "model": object,
    "data": dict,
    "seed": int,
}
INTERVAL = {"value": (float, None), "low?": (float, None), "high?": (float, None)}
OPTIONAL = {"top5_accuracy": "top5_accuracy?"}  # not measured for few classes
RESULTS = dict.fromkeys((OPTIONAL.get(name, name) for name in METRICS), (INTERVAL, float, None))
ALPHA = 0.05  # the chance of reporting a difference if there is none
DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Run:
    """An evaluated run.

    Attributes:
        title: its name in the comparison.
        folder: the directory of its files.
        header: what predictions.parquet records about itself: "classes", "source", "split",
            "model", and "data" and "seed" of the config that opened the images.
        metrics: {name: number}, from its metrics.json.
        columns: {name: array (N,)} of its predictions.
    """

    title: str
    folder: pathlib.Path
    header: dict[str, Any]
    metrics: dict[str, Any]
    columns: dict[str, np.ndarray]

    def subset(self, positions: np.ndarray) -> "Run":
        """Returns the run with only the images at `positions`, integers (M,)."""
        columns = {name: values[positions] for name, values in self.columns.items()}
        return dataclasses.replace(self, columns=columns)


def titles(paths: Sequence[str]) -> list[str]:
    """Returns a title for each run: the name of its directory, or if two are the same, its path."""
    folders = [pathlib.Path(path).resolve() for path in paths]
    names = [(folder.parent if folder.name == EVALUATION else folder).name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(path).rstrip("/") for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"{next(name for name in names if names.count(name) > 1)} is given twice")
    return names


def load(path: pathlib.Path | str, title: str, split: str = "") -> Run:
    """Returns an evaluated run.

    Args:
        path: a run directory, or a directory with the files of an evaluation.
        title: see `Run`.
        split: the split that it must have been evaluated on; "" for any.

    Raises:
        UserError: if it has not been evaluated, or on another split, or a file cannot be read.
    """
    import pyarrow.parquet as pq

    path = pathlib.Path(path)
    command = f"python -m vision.evaluation --workdir {path}"
    folder = _evaluation_folder(path, command)
    remedy = f"evaluate it again with\n{command}"
    with parsing(folder / FILES[0], "a table of predictions", remedy):
        columns = [*TEXT_COLUMNS, *NUMBER_COLUMNS, "top5"]
        table = pq.read_table(folder / FILES[0], columns=columns)
        text = (table.schema.metadata or {}).get(b"vision", b"")
        header = parse_json(text, HEADER, f"the header of {folder / FILES[0]}", remedy)
        header = {key: header[key] for key in HEADER}
        predictions = _columns(table)
        _check_labels(predictions, len(header["classes"]))
    metrics = read_json(folder / FILES[1], {"metrics": RESULTS}, remedy)["metrics"]
    metrics = {name: metrics[name] for name, _, _ in measured(metrics)}
    if split and header["split"] != split:
        command = f"{command} --split {split} --out DIRECTORY"
        raise UserError(
            f"{path} was evaluated on {header['split']}, not on {split}. Run\n{command}"
        )
    return Run(title, folder, header, metrics, predictions)


def _evaluation_folder(path, command):
    """Returns the directory of a run's evaluation; raises `UserError` if there is none."""
    if not path.is_dir():
        raise UserError(f"there is no directory {path}")
    folder = path if (path / FILES[0]).is_file() else path / EVALUATION
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(
                f"{path} has not been evaluated: it has no {EVALUATION}/{name}. Run\n{command}"
            )
    return folder


def _check_labels(columns, classes):
    """Raises ValueError if a number of a class is none of `classes`, or a number is missing."""
    for name in NUMBER_COLUMNS:
        if columns[name].dtype.kind not in "iufb":
            raise ValueError(f"{name} has missing numbers")
    for name in ("label_index", "predicted_index"):
        numbers = columns[name]
        if numbers.dtype.kind not in "iu" or (
            len(numbers) and not 0 <= numbers.min() <= numbers.max() < classes
        ):
            raise ValueError(f"{name} must be 0 to {classes - 1}")


def _columns(table):
    """Returns {name: array (N,)} of a table of predictions."""
    columns = {name: np.array(table[name].to_pylist(), object) for name in TEXT_COLUMNS}
    columns |= {name: table[name].to_numpy() for name in NUMBER_COLUMNS}
    best = table["top5"].to_pylist()
    in_top5 = [label in top for label, top in zip(columns["label"], best, strict=True)]
    return columns | {"in_top5": np.array(in_top5, bool)}


def align(runs: Sequence[Run]) -> tuple[list[Run], int]:
    """Returns the runs with the images that all of them have, in one order.

    Returns:
        (runs, number of images that are left out).

    Raises:
        UserError: if they were evaluated on different data, or disagree on the name or the label of
            an image.
    """
    first = runs[0]
    for run in runs[1:]:
        _check_header(first, run)
    rows = first.columns["row"]
    for run in runs[1:]:
        rows = np.intersect1d(rows, run.columns["row"])
    if not len(rows):
        raise UserError("the runs have no image in common")
    all_rows = set().union(*(run.columns["row"].tolist() for run in runs))
    aligned = []
    for run in runs:
        order = np.argsort(run.columns["row"], kind="stable")
        places = np.searchsorted(run.columns["row"], rows, sorter=order)
        aligned.append(run.subset(order[places]))
        _check_images(aligned[0], aligned[-1])
    return aligned, len(all_rows) - len(rows)


def _check_header(first, run):
    """Raises `UserError` unless two runs were evaluated on the same split and classes."""
    for key in ("source", "split"):
        if run.header[key] != first.header[key]:
            raise UserError(
                f"{first.title} was evaluated on the {key} {first.header[key]}, "
                f"{run.title} on {run.header[key]}.\n"
                "Evaluate both on the same images: --data SOURCE --split SPLIT"
            )
    classes = first.header["classes"]
    other_classes = run.header["classes"]
    if len(classes) != len(other_classes):
        raise UserError(
            f"{first.title} has {len(classes)} classes, {run.title} {len(other_classes)}: "
            "they cannot be compared"
        )
    for i, (name, other_name) in enumerate(zip(classes, other_classes, strict=True)):
        if name != other_name:
            raise UserError(
                f"class {i} is {name!r} in {first.title}, {other_name!r} in {run.title}: "
                "the runs cannot be compared"
            )


def _check_images(first, run):
    """Raises `UserError` unless two aligned runs agree on the images' names and labels."""
    for key in ("name", "label"):
        differs = np.flatnonzero(first.columns[key] != run.columns[key])
        if len(differs):
            i = differs[0]
            raise UserError(
                f"image {first.columns['row'][i]} has the {key} {first.columns[key][i]!r} in "
                f"{first.title}, {run.columns[key][i]!r} in {run.title}: the data changed,\n"
                "or was split with another seed. Evaluate both on new images: --data SOURCE"
            )


def compare(runs: Sequence[Run], left_out: int = 0) -> dict[str, Any]:
    """Returns the content of comparison.json.

    Args:
        runs: from `align`.
        left_out: number of images that some of them do not have.
    """
    first = runs[0]
    pairs = [_pair(first, run) for run in runs[1:]]
    corrected = holm(np.array([pair["mcnemar"]["p"] for pair in pairs]))
    for pair, p in zip(pairs, corrected, strict=True):
        pair["mcnemar"]["p_holm"] = float(p)
        pair["better"], pair["verdict"] = verdict(pair, len(pairs) > 1)
    return {
        "format": 1,
        "source": first.header["source"],
        "split": first.header["split"],
        "images": len(first.columns["row"]),
        "left_out": left_out,
        "alpha": ALPHA,
        "runs": [
            {
                "title": run.title,
                "folder": str(run.folder),
                "model": run.header["model"],
                "accuracy": float(run.columns["correct"].mean()),
                "metrics": {
                    name: number
                    for name, number in run.metrics.items()
                    if name != "top5_accuracy" or _has_top5(run)
                },
            }
            for run in runs
        ],
        "comparisons": pairs,
    }


def _pair(first, other):
    """Returns the comparison of two runs; differences are other - first."""
    a = first.columns["correct"]
    b = other.columns["correct"]
    counts = {
        "both_right": int((a & b).sum()),
        "only_first": int((a & ~b).sum()),
        "only_other": int((~a & b).sum()),
        "both_wrong": int((~a & ~b).sum()),
    }
    per_class = _per_class(first, other)
    return {
        "first": first.title,
        "other": other.title,
        "mcnemar": counts | {"p": mcnemar(counts["only_first"], counts["only_other"])},
        "differences": _differences(first, other, per_class),
        "per_class": per_class,
    }


def _differences(first, other, per_class):
    """Returns {metric: difference with its interval}, bootstrapped if it has no closed form.

    A bootstrapped interval is left out if it does not tell anything (`intervals.tells`).
    """
    draws_first, measured_first = _margin_metrics(first)
    draws_other, measured_other = _margin_metrics(other)
    differences = {}
    for name in draws_first:
        spread = draws_other[name] - draws_first[name]
        spread = spread[~np.isnan(spread)]
        if len(spread):
            difference = float(measured_other[name] - measured_first[name])
            differences[name] = {"difference": difference} | statistics.interval(spread)
    columns = [run.columns for run in (other, first)]
    differences["nll"] = statistics.paired_bootstrap(*(c["nll"] for c in columns), DRAWS)
    images = len(columns[0]["row"])
    differences = {name: _told(change, images) for name, change in differences.items()}
    right = statistics.paired_shares(*(c["correct"] for c in columns))
    differences |= {"accuracy": right, "weighted_recall": right}
    recall = statistics.mean_of_differences(per_class)
    differences |= {"balanced_accuracy": recall, "macro_recall": recall}
    if _has_top5(first):
        differences["top5_accuracy"] = statistics.paired_shares(*(c["in_top5"] for c in columns))
    return differences


def _told(change, images):
    """Returns a bootstrapped difference, alone if its interval does not tell anything."""
    if intervals.tells(change["low"], change["high"], images):
        return change
    return {"difference": change["difference"]}


def _has_top5(run):
    return len(run.header["classes"]) > TOP


def _margin_metrics(run):
    """Returns ({metric: bootstrap draws}, {metric: value}) of the confusion matrix's metrics."""
    labels = run.columns["label_index"]
    predicted = run.columns["predicted_index"]
    count = len(run.header["classes"])
    draws = intervals.margin_draws(labels, predicted, count, DRAWS)
    weights = np.ones((len(labels), 1))
    numbers, _ = from_margins(*margins(labels, predicted, count, weights))
    return draws, {name: values[0] for name, values in numbers.items()}


def _per_class(first, other):
    """Returns the change of each class's recall, for classes with images, the worst loss first."""
    labels = first.columns["label_index"]
    rows = []
    for i in np.unique(labels):
        of_class = labels == i
        a = first.columns["correct"][of_class]
        b = other.columns["correct"][of_class]
        row = {
            "class": first.header["classes"][i],
            "images": int(of_class.sum()),
            "first": float(a.mean()),
            "other": float(b.mean()),
            **statistics.paired_shares(b, a),
        }
        rows.append(row)
    return sorted(rows, key=lambda row: (row["difference"], -row["images"]))


def verdict(pair: Mapping[str, Any], several: bool = False) -> tuple[str, str]:
    """Returns which of two runs is better, and one plain sentence about it.

    Args:
        pair: one of the "comparisons" of `compare`.
        several: whether there are further comparisons, so that p is corrected.

    Returns:
        ("first", "other" or "", sentence).
    """
    first = pair["first"]
    other = pair["other"]
    counts = pair["mcnemar"]
    change = pair["differences"]["accuracy"]
    p = counts["p_holm"]
    split = counts["only_first"] + counts["only_other"]
    if not split:
        return "", f"{other} and {first} are right on the same images: no difference."
    how = f"{'Holm-corrected ' if several else ''}p {p:.2g}" if p >= 0.0001 else "p below 0.0001"
    points = f"{100 * abs(change['difference']):.1f} points"
    if p >= ALPHA:
        return "", (
            f"{other} and {first} cannot be told apart: a difference of {points} on these images, "
            f"of which they differ on {split:,}, may well be luck ({how})."
        )
    better, worse = ("other", "first") if change["difference"] > 0 else ("first", "other")
    within = ""
    if change["low"] * change["high"] > 0:
        low, high = sorted(100 * abs(change[end]) for end in ("low", "high"))
        within = f", 95 % interval {low:.1f} to {high:.1f}"
    wins = counts[f"only_{better}"]
    return better, (
        f"{pair[better]} is better than {pair[worse]}: its accuracy is {points} higher{within}. "
        f"Of the {split:,} images where only one of them is right, it is right on {wins:,}, "
        f"more than luck would give ({how})."
    )
