"""What a finished run of a row has measured: the columns of results.csv."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.row import Row

# {key of retrieval.json: its title in a table}; the modules that have these words import JAX
RETRIEVED = {
    f"{way.replace(' ', '_')}_at_{k}": f"{way}, recall@{k}"
    for way in ("image to text", "text to image")
    for k in (1, 5, 10)
}
COLUMNS = (
    "row",
    "seed",
    "accuracy",
    "balanced",
    "linear",
    "knn",
    "zero_shot",
    *RETRIEVED,
    "old",
    "new",
    "forgotten",
    "reached",
    "macs_removed",
    "parameters",
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
    **RETRIEVED,
    "old": "old images",
    "new": "new images",
    "forgotten": "points forgotten",
    "reached": "steps to the accuracy",
    "macs_removed": "multiply-adds removed",
    "parameters": "parameters",
}
# {command: the file that says that a run is finished}
RESULTS = {"vision.main": "result.json", "vision.continual": "sequence.json"}


def measured(row: Row, workdir: pathlib.Path) -> dict[str, object]:
    """Returns the columns of a finished run; {} if it is not finished."""
    file = workdir / RESULTS[row.command]
    outputs = row.outputs(workdir)
    if not all(path.is_file() for path in (file, *outputs.values())):
        return {}
    result = json.loads(file.read_text())
    numbers: dict[str, Any] = {
        "steps": result["steps"],
        "minutes": round(result["train_seconds"] / 60, 1),
        "device": result["device"] + (", oneDNN" if result["onednn"] else ""),
        "jax": result["versions"]["jax"],
        "date": result["date"][:10],
        "commit": (result["git_commit"] or "")[:8],
    }
    if row.accuracy:
        numbers["accuracy"] = round(100 * result["accuracy"], 2)
    if row.balanced:
        numbers["balanced"] = round(100 * result["balanced_accuracy"], 2)
    records = {stage: json.loads(path.read_text()) for stage, path in outputs.items()}
    if row.probe:
        numbers["linear"] = round(100 * records["probe"]["linear_probe"], 2)
        numbers["knn"] = round(100 * records["probe"]["nearest_neighbors"], 2)
    if row.zero_shot:
        numbers["zero_shot"] = round(100 * records["zero_shot"]["metrics"]["accuracy"]["value"], 2)
    if row.retrieval:
        for name in RETRIEVED:
            numbers[name] = round(100 * records["retrieval"][name], 2)
    if row.continual:
        numbers |= _continual(result)
    if row.reach:
        numbers["reached"] = _first_step(workdir / "metrics.jsonl", row.reach / 100)
    if row.prune:
        counts = json.loads((workdir / "pruning.json").read_text())["counts"]
        before, after = counts["multiply-adds"]
        numbers["macs_removed"] = round(100 * (1 - after / before), 1)
        numbers["parameters"] = counts["parameters"][1]
    return numbers


def _first_step(file: pathlib.Path, accuracy: float) -> object:
    """Returns the first step whose validation found an accuracy; "" if none did."""
    lines = (json.loads(line) for line in file.read_text().splitlines())
    steps = (line["step"] for line in lines if line.get("val/accuracy", 0) >= accuracy)
    return next(steps, "")


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
