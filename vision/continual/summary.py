"""What a sequence of tasks has come to: the accuracy on each task after each."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def summarize(accuracy: np.ndarray) -> dict[str, float]:
    """Returns the measures of a sequence.

    Args:
        accuracy: float (T, T), of task j after task i; NaN for j > i.

    Returns:
        {"accuracy", "forgetting", "backward_transfer"}: the mean over the tasks after the last one
        (Lopez-Paz and Ranzato 2017, arXiv:1706.08840, eq. 2); the mean over all tasks except the
        last of what is lost of the best accuracy before (Chaudhry et al. 2018, arXiv:1801.10112,
        section 3); and the mean change since each was learned (eq. 3 of the first). The last two
        are 0 for a single task.
    """
    last = accuracy[-1]
    measures = {"accuracy": float(last.mean()), "forgetting": 0.0, "backward_transfer": 0.0}
    if len(accuracy) > 1:
        earlier = last[:-1]
        best = np.nanmax(accuracy[:-1, :-1], axis=0)
        measures["forgetting"] = float((best - earlier).mean())
        measures["backward_transfer"] = float((earlier - np.diag(accuracy)[:-1]).mean())
    return measures


def matrix(results: Sequence[dict[str, Any]], measure: str) -> np.ndarray:
    """Returns the accuracy on each task after each, float (T, T), NaN for later tasks.

    Args:
        results: the result.json of each run, in their order.
        measure: "accuracy" or "accuracy_within_task".
    """
    rows = np.full((len(results), len(results)), np.nan)
    for i, result in enumerate(results):
        if "continual" not in result:  # a first task is all that its run has learned
            rows[i, 0] = result["accuracy"]
            continue
        for j, task in enumerate(result["continual"]["tasks"]):
            rows[i, j] = np.nan if task[measure] is None else task[measure]
    return rows


def table(accuracy: np.ndarray, measures: dict[str, float]) -> list[str]:
    """Returns the lines of a table for the terminal."""
    count = len(accuracy)
    lines = ["accuracy on task " + "".join(f"{j + 1:>8}" for j in range(count))]
    for i, row in enumerate(accuracy):
        cells = "".join("        " if np.isnan(a) else f"{100 * a:8.2f}" for a in row)
        lines.append(f"after task {i + 1:<6}" + cells)
    lines.append(
        f"average accuracy {100 * measures['accuracy']:.2f} %, forgetting "
        f"{100 * measures['forgetting']:.2f} points, backward transfer "
        f"{100 * measures['backward_transfer']:.2f} points"
    )
    return lines


def plot(accuracy: np.ndarray, title: str) -> Any:
    """Returns a Matplotlib figure: a line for each task, from when it was learned."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(1, len(accuracy) + 1)
    for j in range(len(accuracy)):
        axes.plot(steps[j:], 100 * accuracy[j:, j], marker="o", label=f"task {j + 1}")
    means = [100 * np.nanmean(row[: i + 1]) for i, row in enumerate(accuracy)]
    axes.plot(steps, means, color="black", linewidth=2.5, linestyle="--", label="mean so far")
    axes.set_xlabel("after task")
    axes.set_ylabel("test accuracy, %")
    axes.set_xticks(steps)
    axes.set_ylim(0, 102)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    return figure
