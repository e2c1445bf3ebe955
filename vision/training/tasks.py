"""What a run that goes on from others knows of each task: of the old images, and of its own."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision.data.division import Task
from vision.data.pipeline import Data
from vision.data.recall import rows_in_division
from vision.support.reading import read_json

KEY = "continual"  # of result.json


def measure_tasks(
    config: ConfigDict, data: Data, logits: np.ndarray, readable: np.ndarray
) -> dict[str, Any]:
    """Returns {"continual": ...} for the result.json of a run that has several tasks.

    Args:
        config: the run's config.
        data: what it learned from.
        logits: float (N, C), of the test images.
        readable: bool (N,), whether each of them can be read.

    Returns:
        {"previous", "remembered": number of images, "tasks": a list of {"source", "classes",
        "images", "accuracy", "accuracy_within_task", "before"}}: the last two are the accuracy if
        only the classes of an image's own task can be the answer, and the accuracy of the previous
        run, None for this run's own task and if that run was not tested.
    """
    source = data.loaders["test"].dataset.source
    labels = source.labels
    numbers = task_of_rows(data.tasks, rows_in_division(source))
    within = np.where(_own_classes(data.tasks, labels, logits.shape[1]), logits, -np.inf)
    right = logits.argmax(1) == labels
    right_within = within.argmax(1) == labels
    before = _before(config.continual.previous)
    tasks = []
    for number, task in enumerate(data.tasks):
        rows = readable & (numbers == number)
        tasks.append(
            {
                "source": task.source,
                "classes": list(task.classes),
                "images": int(rows.sum()),
                "accuracy": _mean(right[rows]),
                "accuracy_within_task": _mean(right_within[rows]),
                "before": before[number] if number < len(before) else None,
            }
        )
    remembered = len(data.loaders["memory"]) if "memory" in data.loaders else 0
    return {KEY: {"previous": config.continual.previous, "remembered": remembered, "tasks": tasks}}


def task_of_rows(tasks: Sequence[Task], rows: np.ndarray) -> np.ndarray:
    """Returns the number of the task that each test image belongs to, int (N,).

    Args:
        tasks: in their order.
        rows: int (N,), places of the images in the division.
    """
    ends = np.cumsum([task.test for task in tasks])
    return np.searchsorted(ends, rows, "right")


def describe(result: Mapping[str, Any]) -> list[str]:
    """Returns lines on what was forgotten, from a result.json; [] if it has no tasks."""
    if KEY not in result:
        return []
    *old, new = result[KEY]["tasks"]
    lines = []
    counted = [task for task in old if task["images"]]
    images = sum(task["images"] for task in counted)
    if not images:
        lines.append("old images: none, so forgetting is not measured")
    else:
        now = sum(task["accuracy"] * task["images"] for task in counted) / images
        text = f"old images ({images:,}): accuracy {now:.4f}"
        if all(task["before"] is not None for task in counted):
            before = sum(task["before"] * task["images"] for task in counted) / images
            points = 100 * (before - now)
            change = "forgotten" if points >= 0 else "gained"
            text += f", {before:.4f} before: {abs(points):.1f} points {change}"
        lines.append(text)
    if new["images"]:
        what = f", of classes {', '.join(new['classes'])}" if new["classes"] else ""
        lines.append(f"new images ({new['images']:,}{what}): accuracy {new['accuracy']:.4f}")
    return lines


def _own_classes(tasks: Sequence[Task], labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns whether each class came with the task of each image's class, bool (N, C)."""
    numbers = np.zeros(classes, np.int32)
    end = 0
    for number, task in enumerate(tasks):
        numbers[end : end + len(task.classes)] = number
        end += len(task.classes)
    return numbers[labels][:, None] == numbers[None]


def _before(previous: str) -> list[float]:
    """Returns the accuracy of the previous run on each of its tasks; [] if it was not tested."""
    file = pathlib.Path(previous, "result.json")
    if not file.is_file():
        return []
    result = read_json(file)
    if KEY in result:
        return [task["accuracy"] for task in result[KEY]["tasks"]]
    return [result["accuracy"]] if "accuracy" in result else []  # not tested since a merge


def _mean(right: np.ndarray) -> float | None:
    return float(right.mean()) if len(right) else None
