"""Which checkpoint is the best: the direction of a metric."""

import pytest

from vision import metrics
from vision.config import default
from vision.run import best


def checkpoint(metric, mode="auto"):
    c = default().checkpoint
    c.metric = metric
    c.mode = mode
    return c


def test_every_metric_of_a_run_has_a_direction():
    assert set(best.BUILT_IN) == {*(f"val/{name}" for name in metrics.SCALARS), best.LAST}
    assert all(best.guess(metric) == mode for metric, mode in best.BUILT_IN.items())


@pytest.mark.parametrize(
    ("metric", "mode", "declared", "direction", "doubtful"),
    [
        ("val/loss", "auto", {}, "min", False),
        ("val/loss", "max", {}, "min", True),
        ("val/accuracy", "min", {}, "max", True),
        ("val/accuracy", "max", {}, "max", False),
        ("val/knn", "auto", {}, "max", False),
        ("val/knn", "min", {}, "min", True),
        ("val/contrastive_loss", "auto", {}, "min", False),
        ("val/reconstructionError", "auto", {}, "min", False),
        ("val/glossiness", "auto", {}, "max", False),
        ("val/norm", "auto", {"val/norm": "min"}, "min", False),
        ("val/norm", "max", {"val/norm": "min"}, "min", True),
        ("val/loss_of_face", "max", {"val/loss_of_face": "max"}, "max", False),
    ],
)
def test_directions(metric, mode, declared, direction, doubtful):
    c = checkpoint(metric, mode)
    assert best.direction(c, declared) == direction
    assert bool(best.doubt(c, declared)) == doubtful
