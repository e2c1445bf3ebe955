"""The evaluation's pictures, as PNG files: confusion, reliability, the map of embeddings,
robustness."""

import io
import warnings

import numpy as np

NUMBERED = 30  # classes up to which each cell of the confusion matrix says its number
NAMED = 100  # classes up to which its rows and columns say their names
_LONGEST = 24  # characters of a class's name


def confusion(counts, classes, normalized):
    """Returns the PNG of a confusion matrix, true class by predicted class.

    Up to `NUMBERED` classes every cell has its number, up to `NAMED` every row its name. Of more
    classes, those that are taken for each other are drawn side by side, so that groups show as
    blocks on the diagonal; a class takes two pixels at least. Classes that no image has, and none
    is taken for, are left out.

    Args:
        counts: int (C, C).
        classes: C names.
        normalized: each row divided by its sum, in percent, in place of counts.
    """
    counts = np.asarray(counts, np.float64)
    held = np.flatnonzero(counts.sum(0) + counts.sum(1))
    counts = counts[np.ix_(held, held)]
    classes = [classes[i] for i in held]
    values = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1) if normalized else counts
    many = len(classes) > NAMED
    size = len(classes)
    order = by_likeness(counts) if many else np.arange(size)
    values = values[np.ix_(order, order)]
    side = 9.0 if many else float(np.clip(1.6 + 0.46 * size, 3.6, 18.0))
    figure, axes = _figure(side + 1.0, side)
    # Single mistakes have to be seen beside hundreds of hits.
    shown = values if normalized and not many else np.sqrt(values)
    if many:
        shown = np.where(values > 0, 0.2 * shown.max() + 0.8 * shown, 0)
    axes.imshow(shown, cmap="Blues", interpolation="nearest" if not many else "none", vmin=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if many:
        axes.set_xlabel(
            "predicted; classes that are taken for each other stand side by side", fontsize=13
        )
        axes.set_ylabel("true", fontsize=13)
        axes.set_xticks([])
        axes.set_yticks([])
        return _png(figure, dpi=max(120, int(np.ceil(2.6 * size / side))))
    font = 9 if size <= NUMBERED else max(3.5, 9 - 0.06 * (size - NUMBERED))
    names = [_short(name) for name in classes]
    axes.set_xticks(range(size), names, rotation=90, fontsize=font, parse_math=False)
    axes.set_yticks(range(size), names, fontsize=font, parse_math=False)
    if size <= NUMBERED:
        _number(axes, values, shown, normalized, font)
    return _png(figure)


def _number(axes, values, shown, normalized, font):
    for (row, column), value in np.ndenumerate(values):
        if not value:
            continue
        text = (
            (f"{value:.0f}" if value >= 9.95 else f"{value:.1f}") if normalized else f"{value:,.0f}"
        )
        dark = shown[row, column] > 0.6 * shown.max()
        size = font - 1 if len(text) < 5 else font - 2.5
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=size,
            color="white" if dark else "black",
        )


def by_likeness(counts):
    """Returns an order of the classes, int (C,), in which those that are taken for each other are
    neighbors.

    Leaves of an average-linkage clustering (scipy) of how often two classes are confused, in shares
    of their images.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    distance = 1 - np.clip(shares + shares.T, 0, 1)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average"))


def reliability(found):
    """Returns the PNG of reliability diagrams, Guo et al. 2017 (arXiv:1706.04599), figure 1, with
    how many images.

    Args:
        found: {title: what `vision.evaluation.measures.calibration.calibrate` returns}.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(found), 4.8), layout="constrained")
    grid = figure.subplots(2, len(found), squeeze=False, height_ratios=(3, 1), sharex=True)
    for (title, measured), (axes, below) in zip(found.items(), grid.T, strict=True):
        bins = measured["reliability"]
        centers = (np.arange(len(bins["count"])) + 0.5) / len(bins["count"])
        width = 1 / len(centers)
        held = np.array(bins["count"]) > 0
        accuracy = np.array([a or 0.0 for a in bins["accuracy"]])
        mean = np.array([c or 0.0 for c in bins["confidence"]])
        axes.bar(
            centers[held],
            accuracy[held],
            width,
            color="#0969da",
            edgecolor="white",
            label="accuracy",
        )
        low = np.minimum(accuracy, mean)
        gap = np.abs(accuracy - mean)
        axes.bar(
            centers[held],
            gap[held],
            width,
            low[held],
            color="#cf222e",
            alpha=0.35,
            label="gap to the confidence",
        )
        axes.plot([0, 1], [0, 1], "--", color="#57606a", linewidth=1)
        axes.set_title(f"{title}: ECE {100 * measured['ece']['value']:.2f} %", fontsize=10)
        axes.set_ylim(0, 1)
        axes.set_ylabel("accuracy")
        axes.legend(loc="upper left", fontsize=8, frameon=False)
        below.bar(centers, bins["count"], width, color="#57606a", edgecolor="white")
        below.set_xlabel("confidence")
        below.set_ylabel("images")
        below.set_xlim(0, 1)
    return _png(figure)


def embedding_map(points, labels, classes, wrong):
    """Returns the PNG of a 2-D map of embeddings, colored by class, wrong predictions as crosses.

    Args:
        points: float (N, 2).
        labels: int (N,), true classes.
        classes: names; of more than 20 classes the colors repeat, and no legend is drawn.
        wrong: bool (N,).
    """
    import matplotlib

    present = np.unique(labels)
    colors = matplotlib.colormaps["tab10" if len(present) <= 10 else "tab20"]
    figure, axes = _figure(8.6 if len(present) <= 20 else 7.0, 6.4)
    for i, label in enumerate(present):
        chosen = (labels == label) & ~wrong
        color = [colors(i % colors.N)]
        name = _short(classes[label]).replace("$", r"\$")
        # matplotlib hides names that start so
        name = name if not name.startswith("_") else " " + name
        axes.scatter(*points[chosen].T, s=9, c=color, alpha=0.7, linewidths=0, label=name)
        axes.scatter(
            *points[(labels == label) & wrong].T, s=26, c=color, marker="x", linewidths=1.2
        )
    axes.set_xticks([])
    axes.set_yticks([])
    if len(present) <= 20:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False, markerscale=2)
    return _png(figure)


def robustness(found):
    """Returns the PNG of the accuracy at each severity: a line a corruption, a panel a group.

    Args:
        found: what `vision.evaluation.measures.robustness.robustness` returns.
    """
    from matplotlib.figure import Figure

    groups = found["groups"]
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, (group, held) in zip(
        figure.subplots(2, 2, sharex=True, sharey=True).flat, groups.items(), strict=False
    ):
        for name in held["names"]:
            accuracy = [found["clean_accuracy"], *found["corruptions"][name]]
            axes.plot(
                range(6),
                accuracy,
                marker="o",
                markersize=3,
                linewidth=1.4,
                label=name.replace("_", " "),
            )
        axes.set_title(group, fontsize=10)
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.25)
        axes.set_xticks(range(6), ["clean", "1", "2", "3", "4", "5"])
        axes.legend(fontsize=8, frameon=False, loc="lower left")
        axes.set_ylabel("accuracy")
    return _png(figure)


def _short(name):
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _figure(width, height):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _png(figure, dpi=120):
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()
