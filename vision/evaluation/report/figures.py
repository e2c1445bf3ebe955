"""The evaluation's pictures as PNG files: confusion, reliability, embeddings, robustness."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NUMBERED = 30  # classes up to which each cell of the confusion matrix shows its number
NAMED = 100  # classes up to which its rows and columns show their names
DOT = 5  # half of what a point takes up, pixels
_LONGEST = 24  # longest class name, characters


def confusion(counts: np.ndarray, classes: Sequence[str], normalized: bool) -> bytes:
    """Returns the PNG of a confusion matrix, true class by predicted class.

    Up to `NUMBERED` classes every cell has its number, up to `NAMED` every row its name. With more
    classes, those that are confused with each other are drawn side by side, so that groups show as
    blocks on the diagonal; a class takes two pixels at least. Classes without images, for which no
    image is mistaken, are left out.

    Args:
        counts: int (C, C).
        classes: C names.
        normalized: whether to show each row divided by its sum, in percent, instead of counts.
    """
    counts = np.asarray(counts, np.float64)
    present = np.flatnonzero(counts.sum(0) + counts.sum(1))
    counts = counts[np.ix_(present, present)]
    values = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1) if normalized else counts
    if len(present) > NAMED:
        order = by_likeness(counts)
        return _large_confusion(values[np.ix_(order, order)])
    return _named_confusion(values, [classes[int(i)] for i in present], normalized)


def _large_confusion(values):
    """Returns the PNG of a confusion matrix without names."""
    side = 9.0
    figure, axes = _figure(side + 1.0, side)
    colors = np.sqrt(values)  # single mistakes have to be visible beside hundreds of hits
    colors = np.where(values > 0, 0.2 * colors.max() + 0.8 * colors, 0)
    axes.imshow(colors, cmap="Blues", interpolation="none", vmin=0)
    axes.set_xlabel(
        "predicted; classes that are confused with each other are side by side", fontsize=13
    )
    axes.set_ylabel("true", fontsize=13)
    axes.set_xticks([])
    axes.set_yticks([])
    return _png(figure, dpi=max(120, int(np.ceil(2.6 * len(values) / side))))


def _named_confusion(values, classes, normalized):
    """Returns the PNG of a confusion matrix with names, and with numbers if they fit."""
    size = len(classes)
    side = float(np.clip(1.6 + 0.46 * size, 3.6, 18.0))
    figure, axes = _figure(side + 1.0, side)
    # single mistakes have to be visible beside hundreds of hits
    colors = values if normalized else np.sqrt(values)
    axes.imshow(colors, cmap="Blues", interpolation="nearest", vmin=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    font = 9 if size <= NUMBERED else max(3.5, 9 - 0.06 * (size - NUMBERED))
    names = [_short(name) for name in classes]
    axes.set_xticks(range(size), names, rotation=90, fontsize=font, parse_math=False)
    axes.set_yticks(range(size), names, fontsize=font, parse_math=False)
    if size <= NUMBERED:
        _write_numbers(axes, values, colors, normalized, font)
    return _png(figure)


def _write_numbers(axes, values, colors, normalized, font):
    for (row, column), value in np.ndenumerate(values):
        if not value:
            continue
        text = f"{value:,.0f}"
        if normalized:
            text = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
        is_dark = colors[row, column] > 0.6 * colors.max()
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=font - 1 if len(text) < 5 else font - 2.5,
            color="white" if is_dark else "black",
        )


def by_likeness(counts: np.ndarray) -> np.ndarray:
    """Returns an order of the classes, int (C,), with those confused with each other adjacent.

    Leaves of an average-linkage clustering (scipy) of how often two classes are confused, in shares
    of their images.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    distance = 1 - np.clip(shares + shares.T, 0, 1)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average"))


def reliability(calibrations: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Returns the PNG of reliability diagrams, with the number of images below.

    Guo et al. 2017 (arXiv:1706.04599), figure 1.

    Args:
        calibrations: {title: result of `vision.evaluation.measures.calibration.calibrate`}.
    """
    from matplotlib.figure import Figure

    columns = len(calibrations)
    figure = Figure(figsize=(4.4 * columns, 4.8), layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False, height_ratios=(3, 1), sharex=True)
    for (title, measured), (axes, below) in zip(calibrations.items(), grid.T, strict=True):
        bins = measured["reliability"]
        _reliability_bars(axes, bins)
        axes.set_title(f"{title}: ECE {100 * measured['ece']['value']:.2f} %", fontsize=10)
        axes.set_ylim(0, 1)
        axes.set_ylabel("accuracy")
        axes.legend(loc="upper left", fontsize=8, frameon=False)
        centers = _centers(bins)
        width = 1 / len(centers)
        below.bar(centers, bins["count"], width, color="#57606a", edgecolor="white")
        below.set_xlabel("confidence")
        below.set_ylabel("images")
        below.set_xlim(0, 1)
    return _png(figure)


def _centers(bins):
    return (np.arange(len(bins["count"])) + 0.5) / len(bins["count"])


def _reliability_bars(axes, bins):
    """Draws the accuracy of each bin, and its gap to the confidence."""
    filled = np.array(bins["count"]) > 0
    centers = _centers(bins)
    width = 1 / len(centers)
    accuracy = np.array([a or 0.0 for a in bins["accuracy"]])
    confidence = np.array([c or 0.0 for c in bins["confidence"]])
    axes.bar(
        centers[filled],
        accuracy[filled],
        width,
        color="#0969da",
        edgecolor="white",
        label="accuracy",
    )
    low = np.minimum(accuracy, confidence)
    gap = np.abs(accuracy - confidence)
    axes.bar(
        centers[filled],
        gap[filled],
        width,
        low[filled],
        color="#cf222e",
        alpha=0.35,
        label="gap to the confidence",
    )
    axes.plot([0, 1], [0, 1], "--", color="#57606a", linewidth=1)


def risk_coverage(unsure: Mapping[str, Any]) -> bytes:
    """Returns the PNG of the share of wrong answers by the share of images that are answered.

    The promised precisions are marked where they ended up, a threshold without a promise in gray.

    Args:
        unsure: from `vision.evaluation.measures.selective.on_test`.
    """
    figure, axes = _figure(6.4, 3.6)
    curve = unsure["curve"]
    answered = 100 * np.array(curve["coverage"])
    axes.plot(answered, 100 * np.array(curve["risk"]), color="#0969da", label="the surest images")
    at_random = 100 * unsure["aurc"]["at_random"]
    axes.axhline(at_random, linestyle="--", color="#57606a", linewidth=1, label="all images")
    promises: dict[tuple[float, float, bool], list[str]] = {}  # several may have the same answers
    for row in unsure["precision"]:
        if row["precision"]["value"] is not None:
            place = (100 * row["answered"]["value"], 100 * (1 - row["precision"]["value"]))
            is_promised = row["expected"] is not None
            text = f"{row['value']:g}" if is_promised else row["wish"]
            promises.setdefault((*place, is_promised), []).append(text)
    for (share, risk, is_promised), values in promises.items():
        color = "#cf222e" if is_promised else "#57606a"
        axes.plot(share, risk, "o", color=color, markersize=5)
        text = ", ".join(values)
        axes.annotate(
            text, (share, risk), (-4, 6), textcoords="offset points", ha="right", fontsize=8
        )
    axes.set_xlabel("images answered, %")
    axes.set_ylabel("wrong answers, %")
    axes.set_xlim(0, 103)
    axes.set_ylim(0, 1.35 * max(at_random, 100 * max(curve["risk"]), 0.1))  # room for the legend
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    return _png(figure)


def embedding_map(
    points: np.ndarray, labels: np.ndarray, classes: Sequence[str], wrong: np.ndarray
) -> bytes:
    """Returns the PNG of a 2-D map of embeddings, colored by class, wrong predictions as crosses.

    Args:
        points: float (N, 2).
        labels: int (N,), true classes.
        classes: names; with more than 20 classes the colors repeat, and no legend is drawn.
        wrong: bool (N,).
    """
    import matplotlib

    present = np.unique(labels)
    colors = matplotlib.colormaps["tab10" if len(present) <= 10 else "tab20"]
    figure, axes = _figure(8.6 if len(present) <= 20 else 7.0, 6.4)
    for i, label in enumerate(present):
        right = points[(labels == label) & ~wrong]
        mistakes = points[(labels == label) & wrong]
        color = [colors(i % colors.N)]
        name = _short(classes[label]).replace("$", r"\$")
        # matplotlib hides names that start with an underscore
        name = name if not name.startswith("_") else " " + name
        axes.scatter(*right.T, s=9, c=color, alpha=0.7, linewidths=0, label=name)
        axes.scatter(*mistakes.T, s=26, c=color, marker="x", linewidths=1.2)
    axes.set_xticks([])
    axes.set_yticks([])
    if len(present) <= 20:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False, markerscale=2)
    return _png(figure)


def robustness(result: Mapping[str, Any]) -> bytes:
    """Returns the PNG of the accuracy at each severity: a line per corruption, a panel per group.

    Args:
        result: from `vision.evaluation.measures.robustness.robustness`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, (title, group) in zip(panels, result["groups"].items(), strict=False):
        for name in group["names"]:
            axes.plot(
                range(6),
                [result["clean_accuracy"], *result["corruptions"][name]],
                marker="o",
                markersize=3,
                linewidth=1.4,
                label=name.replace("_", " "),
            )
        axes.set_title(title, fontsize=10)
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.25)
        axes.set_xticks(range(6), ["clean", "1", "2", "3", "4", "5"])
        axes.legend(fontsize=8, frameon=False, loc="lower left")
        axes.set_ylabel("accuracy")
    return _png(figure)


def accuracies(runs: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns the PNG of the accuracy of several runs with its interval, a named line for each.

    Args:
        runs: the "runs" of comparison.json.
    """
    figure, axes = _figure(8.0, 1.1 + 0.36 * len(runs))
    for place, run in enumerate(runs):
        accuracy = run["metrics"]["accuracy"]
        value = 100 * accuracy["value"]
        ends = [100 * accuracy.get(end, accuracy["value"]) for end in ("low", "high")]
        color = "#57606a" if place == 0 else "#0969da"
        axes.plot(ends, [place, place], color=color, linewidth=2, alpha=0.5)
        axes.plot([value], [place], "o", color=color)
    names = [_short(run["title"]) for run in runs]
    axes.set_yticks(range(len(runs)), names, parse_math=False)
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlabel("accuracy, %, and its 95 % interval")
    axes.grid(axis="x", alpha=0.25)
    return _png(figure)


def name_points(axes: Any, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Writes a name beside each point, moved up or down where another one is in its way.

    The axes' limits must be final, and their figure laid out.

    Args:
        axes: of Matplotlib.
        points: in the units of the data.
        names: a name for each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    axes.figure.draw(renderer)
    frame = axes.get_window_extent(renderer)
    places = [axes.transData.transform(point) for point in points]
    boxes = [Bbox.from_bounds(x - DOT, y - DOT, 2 * DOT, 2 * DOT) for x, y in places]
    for point, place, name in zip(points, places, names, strict=True):
        is_right = place[0] > (frame.x0 + frame.x1) / 2
        text = axes.annotate(
            _short(name),
            point,
            (-7 if is_right else 7, 0),
            textcoords="offset points",
            ha="right" if is_right else "left",
            va="center",
            fontsize=9,
            parse_math=False,
            bbox={"color": "white", "alpha": 0.8, "pad": 0.5},
        )
        for step in range(1, 2 * len(points) + 8):
            box = text.get_window_extent(renderer)
            if frame.y0 <= box.y0 and box.y1 <= frame.y1 and not any(map(box.overlaps, boxes)):
                break
            text.set_y((step + 1) // 2 * (11 if step % 2 else -11))
        boxes.append(text.get_window_extent(renderer))


def _short(name):
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _figure(width, height):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _png(figure, dpi=120):
    file = io.BytesIO()
    with warnings.catch_warnings():
        # a name in a script that the font does not have
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()
