"""The pictures of a study's report, as PNG files."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vision.search.results import Results, front

BLUE = "#0969da"
GRAY = "#afb8c1"
DARK = "#57606a"
AMBER = "#bf8700"
RED = "#cf222e"
COLORS = {"complete": BLUE, "pruned": AMBER, "failed": RED}
MOST_CURVES = 200  # trials whose learning curves are drawn
LONGEST = 22  # characters of a choice's name
LOG_RATIO = 50  # a numeric parameter whose largest value is so many times its smallest


def history(results: Results) -> bytes:
    """Returns the objective of each trial, in their order, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(10, 3.6)
    axes = figure.subplots()
    way = next(iter(results.request.objectives.values()))
    for state, color in COLORS.items():
        rows = [row for row in results.rows if row.state == state and row.values]
        if rows:
            values = [row.values[0] for row in rows]
            axes.scatter([row.place for row in rows], values, s=22, c=color, label=state)
    complete = [row for row in results.rows if row.state == "complete"]
    if complete:
        better = np.maximum if way == "max" else np.minimum
        best = better.accumulate([row.values[0] for row in complete])
        axes.step([row.place for row in complete], best, color=DARK, where="post", linewidth=1.2)
        _focus(axes, [row.values[0] for row in complete], way)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(results.request.objective)
    axes.grid(alpha=0.25)
    if any(row.state == "pruned" and row.values for row in results.rows):
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return _png(figure)


def bars(importances: Mapping[str, float]) -> bytes:
    """Returns the importances of the parameters, the largest at the top."""
    names = list(importances)[::-1]
    figure = _figure(6.4, 0.9 + 0.34 * len(names))
    axes = figure.subplots()
    axes.barh(range(len(names)), [importances[name] for name in names], color=BLUE, height=0.6)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xlabel("share of the objective's variance (fANOVA)")
    axes.set_xlim(0, 1)
    axes.grid(axis="x", alpha=0.25)
    return _png(figure)


def parallel_coordinates(results: Results) -> bytes:
    """Returns a line for each complete trial across the parameters, colored by its rank."""
    import matplotlib

    columns = {
        name: [row.parameters.get(name) for row in results.best] for name in _varied(results)
    }
    columns |= {results.request.objective: [row.values[0] for row in results.best]}
    scales = [_Scale(values) for values in columns.values()]
    figure = _figure(max(9.0, 1.4 * len(columns) + 2), 4.2)
    axes = figure.subplots()
    colors = matplotlib.colormaps["viridis"]
    count = max(1, len(results.best) - 1)
    lines = list(zip(*columns.values(), strict=True))
    for rank, values in reversed(list(enumerate(lines))):
        positions = [scale.position(v) for scale, v in zip(scales, values, strict=True)]
        style = {"color": colors(rank / count), "linewidth": 1, "alpha": 0.6}
        axes.plot(positions, **(style if rank else {"color": RED, "linewidth": 2.4}))
    _label_axes(axes, list(columns), scales)
    return _png(figure)


def _label_axes(axes: Any, names: Sequence[str], scales: "Sequence[_Scale]") -> None:
    """Draws the vertical axes of parallel coordinates, with some of their values."""
    box = {"color": "white", "alpha": 0.8, "pad": 0.5}
    text = {"fontsize": 8, "va": "center", "color": DARK, "parse_math": False, "zorder": 5}
    for number, scale in enumerate(scales):
        axes.axvline(number, color=GRAY, linewidth=0.8)
        for position, label in scale.labels():
            place = (number, position)
            axes.annotate(label, place, (4, 0), textcoords="offset points", bbox=box, **text)
    axes.set_xticks(range(len(names)), [_broken(name) for name in names], fontsize=9)
    axes.set_xlim(-0.1, len(names) - 0.4)
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([])
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def slices(results: Results) -> bytes:
    """Returns the objective against each parameter by itself."""
    names = _varied(results)
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = _figure(3.6 * columns + 0.4, 2.7 * rows)
    way = next(iter(results.request.objectives.values()))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    values = [row.values[0] for row in results.best]
    for name, axes in zip(names, grid.flat, strict=False):
        rows_of = [row for row in results.best if name in row.parameters]
        _slice(axes, [row.parameters[name] for row in rows_of], [r.values[0] for r in rows_of])
        axes.set_xlabel(_broken(name), fontsize=9)
        axes.grid(alpha=0.25)
        _focus(axes, values, way)
    for row in grid:
        row[0].set_ylabel(results.request.objective, fontsize=9)
    return _png(figure)


def curves(results: Results) -> bytes:
    """Returns the validations of the trials as they were trained."""
    figure = _figure(10, 4)
    axes = figure.subplots()
    best = results.best[0].place if results.best else None
    drawn = [row for row in results.rows if row.curve and row.state in COLORS][:MOST_CURVES]
    for row in sorted(drawn, key=lambda row: (row.place == best, row.state == "pruned")):
        is_best = row.place == best
        axes.plot(
            [step for step, _ in row.curve],
            [value for _, value in row.curve],
            color=RED if is_best else COLORS[row.state],
            alpha=1 if is_best else 0.45,
            linewidth=2.4 if is_best else 1,
            marker="o",
            markersize=3,
        )
    axes.set_xlabel("percent of the training of the searched config, in images")
    axes.set_ylabel(results.request.objective)
    axes.grid(alpha=0.25)
    finite = [value for row in drawn for _, value in row.curve]
    if finite:
        _focus(axes, finite, next(iter(results.request.objectives.values())))
    return _png(figure)


def pareto(results: Results) -> bytes:
    """Returns the first two objectives of the complete trials, and those that none beats."""
    figure = _figure(7, 4.4)
    axes = figure.subplots()
    first, second = list(results.request.objectives)[:2]
    axes.scatter(
        [row.values[1] for row in results.best],
        [row.values[0] for row in results.best],
        s=24,
        color=GRAY,
    )
    best = sorted(front(results), key=lambda row: row.values[1])
    axes.plot(
        [row.values[1] for row in best],
        [row.values[0] for row in best],
        "o--" if len(results.request.objectives) == 2 else "o",
        color=BLUE,
        linewidth=1,
    )
    for row in best:
        axes.annotate(
            row.name, (row.values[1], row.values[0]), (5, 5), textcoords="offset points", fontsize=8
        )
    axes.set_xlabel(second)
    axes.set_ylabel(first)
    axes.grid(alpha=0.25)
    return _png(figure)


class _Scale:
    """Where the values of a parameter are on an axis from 0 to 1.

    Args:
        values: all values that occur; None if a trial lacks the parameter.
    """

    def __init__(self, values: Sequence[Any]):
        present = [value for value in values if value is not None]
        self._is_numeric = bool(present) and all(_is_number(value) for value in present)
        self._is_log = self._is_numeric and _is_wide(present)
        self._choices = sorted(set(present), key=str)
        if self._is_numeric:
            numbers = [self._number(value) for value in present]
            self._low = min(numbers)
            self._span = (max(numbers) - self._low) or 1.0

    def position(self, value: Any) -> float:
        """Returns the place of a value; NaN, which is not drawn, for None."""
        if value is None:
            return math.nan
        if self._is_numeric:
            return (self._number(value) - self._low) / self._span
        return self._choices.index(value) / max(1, len(self._choices) - 1)

    def labels(self) -> list[tuple[float, str]]:
        """Returns (place, text) of what is written beside the axis."""
        if not self._is_numeric:
            return [(self.position(choice), _short(choice)) for choice in self._choices]
        if len(self._choices) <= 6:
            return [(self.position(choice), f"{choice:.3g}") for choice in self._choices]
        ends = [self._low + self._span * share for share in (0, 0.5, 1)]
        numbers = [10**end if self._is_log else end for end in ends]
        return [(share, f"{n:.3g}") for share, n in zip((0, 0.5, 1), numbers, strict=True)]

    def _number(self, value: Any) -> float:
        return math.log10(value) if self._is_log else float(value)


def _slice(axes: Any, chosen: Sequence[Any], values: Sequence[float]) -> None:
    if all(_is_number(value) for value in chosen):
        axes.scatter(chosen, values, s=18, color=BLUE, alpha=0.75)
        if _is_wide(chosen):
            axes.set_xscale("log")
        return
    choices = sorted(set(chosen), key=str)
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(chosen))
    positions = np.array([choices.index(value) for value in chosen]) + jitter
    axes.scatter(positions, values, s=18, color=BLUE, alpha=0.75)
    labels = [_short(choice) for choice in choices]
    turned = 30 if max(map(len, labels)) * len(labels) > 30 else 0
    axes.set_xticks(
        range(len(choices)), labels, fontsize=8, rotation=turned, ha="right" if turned else "center"
    )
    axes.set_xlim(-0.5, len(choices) - 0.5)


def _varied(results: Results) -> list[str]:
    """Returns the parameters that have several values among the complete trials."""
    names = []
    for name in results.parameters:
        if len({repr(row.parameters.get(name)) for row in results.best}) > 1:
            names.append(name)
    return names


def varied(results: Results) -> bool:
    """Returns whether there is anything to compare: two trials with different parameters."""
    return bool(_varied(results))


def _focus(axes: Any, values: Sequence[float], way: str) -> None:
    """Lets the axis show the better part well: a few hopeless trials would flatten all others."""
    numbers = np.asarray([value for value in values if math.isfinite(value)], np.float64)
    if len(numbers) < 8:
        return
    low, middle, high = np.quantile(numbers, (0.1, 0.5, 0.9))
    best = numbers.max() if way == "max" else numbers.min()
    worst = low if way == "max" else high
    room = max(abs(best - worst), abs(best - middle) * 2, 1e-9)
    if way == "max":
        axes.set_ylim(max(numbers.min() - 0.05 * room, best - 1.6 * room), best + 0.08 * room)
    else:
        axes.set_ylim(best - 0.08 * room, min(numbers.max() + 0.05 * room, best + 1.6 * room))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_wide(values: Sequence[Any]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= LOG_RATIO


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _broken(name: str) -> str:
    """Returns a parameter's name on two lines if it has a section: such names are long."""
    section, dot, key = name.rpartition(".")
    return f"{section}{dot}\n{key}" if dot else name


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # a name in a script that the font does not have
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
