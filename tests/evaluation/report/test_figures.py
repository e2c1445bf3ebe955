"""Pictures whose points and lines carry names."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vision.evaluation.report.figures import accuracies, name_points


def test_names_of_close_points_do_not_overlap():
    points = [(1.0, 0.5), (1.01, 0.5), (1.0, 0.51), (1.8, 0.5), (2.0, 0.9)]
    names = ["a", "a longer name", "a_b$c", "another of these", "x" * 60]
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*zip(*points, strict=True))
    name_points(axes, points, names)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    frame = axes.get_window_extent(renderer)
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert [text.get_text() for text in axes.texts][:4] == names[:4]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_accuracies_with_and_without_intervals():
    runs = [
        {"title": "_first$", "metrics": {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}}},
        {"title": "second", "metrics": {"accuracy": {"value": 0.7}}},
    ]
    assert accuracies(runs).startswith(b"\x89PNG")
