"""The learning curves of a run as one picture, curves.png: loss, quality, learning rate."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vision.run.best import LAST, direction
from vision.run.readings import best_point, curve, metric_lines
from vision.support.files import replacing

NAME = "curves.png"
ACCURACY = "val/accuracy"
LOSS = "val/loss"
BLUE = "#0969da"  # validation
AMBER = "#bf8700"  # training
GRAY = "#57606a"
SHARES = ("accuracy", "macro_f1", "knn")  # measures that are shown in percent end in one of these
DOTS = 40  # points of a curve up to which each is marked

Points = Sequence[tuple[int, float]]


def quality_measure(c: ConfigDict) -> str:
    """Returns the measure that is drawn beside the loss: what chooses the checkpoint, if it can.

    Args:
        c: config.checkpoint.
    """
    return ACCURACY if c.metric in (LAST, LOSS) else c.metric


def is_share(name: str) -> bool:
    """Returns whether a measure is a share, which is shown in percent."""
    return name.endswith(SHARES)


def best_step(lines: Sequence[Mapping[str, Any]], c: ConfigDict) -> int | None:
    """Returns the step whose checkpoint is the best so far; None before the first validation.

    Args:
        lines: from `vision.run.readings.metric_lines`.
        c: config.checkpoint.
    """
    point = best_point(curve(lines, c.metric), direction(c))
    return point[0] if point else None


def draw(lines: Sequence[Mapping[str, Any]], c: ConfigDict, step: int | None = None) -> bytes:
    """Returns the PNG of a run's learning curves; b"" if it has logged nothing that can be drawn.

    Args:
        lines: from `vision.run.readings.metric_lines`.
        c: config.checkpoint.
        step: the best step, if it is known from the result.
    """
    name = quality_measure(c)
    losses = {"training": curve(lines, "train/loss"), "validation": curve(lines, LOSS)}
    qualities = {
        "training": curve(lines, f"train/{name.removeprefix('val/')}"),
        "validation": curve(lines, name),
    }
    rates = curve(lines, "train/learning_rate")
    if not any((*losses.values(), *qualities.values())):
        return b""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.8), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1))
    left = figure.add_subplot(grid[0, 0])
    right = figure.add_subplot(grid[0, 1])
    below = figure.add_subplot(grid[1, :])
    _plot(left, losses, "loss")
    _plot(right, qualities, name.removeprefix("val/").replace("_", " "), is_share(name))
    below.plot(*_columns(rates), color=GRAY, linewidth=1.4)
    below.set_ylabel("learning rate")
    below.set_xlabel("step")
    below.set_ylim(bottom=0)
    below.grid(alpha=0.25)
    step = best_step(lines, c) if step is None else step
    if step is not None:
        for axes in (left, right, below):
            axes.axvline(step, color=GRAY, linewidth=1, linestyle="--", zorder=1)
        _mark(left, losses["validation"], step)
        _mark(right, qualities["validation"], step, is_share(name))
        figure.text(0.995, 0.005, f"dashed: step {step:,}, the best", ha="right", color=GRAY)
    return _png(figure)


def draw_run(workdir: pathlib.Path | str, config: ConfigDict, step: int | None = None) -> bytes:
    """Returns the PNG of the learning curves of a run directory, as `draw` does.

    Args:
        workdir: the run directory.
        config: its config.
        step: the best step, if it is known from the result.
    """
    return draw(metric_lines(workdir), config.checkpoint, step)


def write_curves(workdir: pathlib.Path | str, config: ConfigDict, step: int | None = None) -> None:
    """Writes curves.png into a run directory, if there is anything to draw.

    Args:
        workdir: the run directory.
        config: its config.
        step: the best step.

    Raises:
        OSError: it cannot be written.
        ImportError: Matplotlib is not installed.
    """
    picture = draw_run(workdir, config, step)
    if picture:
        with replacing(pathlib.Path(workdir, NAME), binary=True) as file:
            file.write(picture)


def _plot(axes: Any, curves: Mapping[str, Points], title: str, in_percent: bool = False) -> None:
    """Draws the curves of one measure, in training and on the validation split."""
    scale = 100 if in_percent else 1
    for (name, points), color in zip(curves.items(), (AMBER, BLUE), strict=True):
        if points:
            steps, values = _columns(points)
            axes.plot(
                steps,
                [scale * value for value in values],
                color=color,
                linewidth=1.6,
                marker="o" if len(points) <= DOTS else None,
                markersize=3,
                label=name,
            )
    axes.set_title(f"{title}, %" if in_percent else title, fontsize=11)
    axes.grid(alpha=0.25)
    if any(curves.values()):
        axes.legend(fontsize=9, frameon=False)


def _mark(axes: Any, points: Points, step: int, in_percent: bool = False) -> None:
    """Marks the value at the best step, and writes it beside the mark."""
    value = dict(points).get(step)
    if value is None:
        return
    shown = 100 * value if in_percent else value
    axes.plot([step], [shown], "o", color=BLUE, markersize=8, zorder=5)
    first, last = axes.get_xlim()
    is_late = step > (first + last) / 2  # then there is more room to the left
    axes.annotate(
        f"{shown:.2f} %" if in_percent else f"{shown:.4g}",
        (step, shown),
        (-8 if is_late else 8, -16 if in_percent else 8),
        textcoords="offset points",
        ha="right" if is_late else "left",
        color=BLUE,
        fontweight="bold",
    )


def _columns(points: Points) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
