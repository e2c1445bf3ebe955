"""The meter and patience, with numbers that the test gives."""

import json

import jax.numpy as jnp
import pytest

from vision.errors import RunError
from vision.training.meter import Meter
from vision.training.policy import Patience

GOOD = {"kernel": jnp.ones(3)}


class Lines:
    """A log that keeps what it is given."""

    def __init__(self):
        self.lines = []

    def train(self, step, scalars):
        self.lines.append((step, scalars))


@pytest.fixture
def log():
    return Lines()


@pytest.fixture
def meter(log, tmp_path):
    return Meter(log, lambda step: [f"{step}-a.png", f"{step}-b.png"], 2, tmp_path)


def add(meter, steps, loss=None, grad_norm=1.0, rate=0.1):
    for step in steps:
        value = jnp.float32(step if loss is None else loss)
        norm = jnp.float32(grad_norm)
        rate = jnp.float32(rate)
        meter.add(step, 1, {"loss": value, "grad_norm": norm, "learning_rate": rate})


def test_a_report_is_late_and_a_flush_is_complete(meter, log):
    add(meter, range(2))
    meter.report()
    assert log.lines == []
    add(meter, range(2, 4))
    meter.report()
    assert [(step, s["loss"]) for step, s in log.lines] == [(2, 0.5)]
    add(meter, range(4, 5), rate=0.05)
    meter.flush(GOOD)
    assert [(step, s["loss"]) for step, s in log.lines[1:]] == [(4, 2.5), (5, 4.0)]
    assert [s["learning_rate"] for _, s in log.lines[1:]] == pytest.approx([0.1, 0.05])


def test_speed_counts_every_step_but_the_first(meter, log):
    """Whatever the pattern of reports and flushes; what lies between flush and resumed takes no
    time."""
    add(meter, range(3))
    meter.report()
    add(meter, range(3, 6))
    meter.report()
    meter.flush(GOOD)
    before = meter.seconds
    meter.restart()
    add(meter, range(6, 10))
    meter.flush(GOOD)
    assert meter.images == 9 * 2
    assert 0 < before < meter.seconds
    assert meter.images_per_second == pytest.approx(meter.images / meter.seconds)
    assert all(scalars["images_per_second"] > 0 for _, scalars in log.lines)


def test_speed_survives_a_checkpoint(meter, log, tmp_path):
    add(meter, range(3))
    meter.flush(GOOD)
    state = json.loads(json.dumps(meter.state()))
    other = Meter(log, lambda step: [], 2, tmp_path, state)
    assert other.images_per_second == meter.images_per_second > 0
    add(other, range(3, 5))
    other.flush(GOOD)
    assert other.images == 3 * 2  # each process leaves its first step out


@pytest.mark.parametrize(
    ("loss", "norm"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))]
)
def test_not_finite(meter, log, tmp_path, loss, norm):
    add(meter, range(3))
    add(meter, [3], loss, norm, rate=0.05)
    add(meter, [4], float("nan"), float("nan"))
    with pytest.raises(
        RunError, match="step 4: loss .*gradient norm .*rate 0.05, images 3-a.png, 3-b.png"
    ):
        meter.flush(GOOD)
    saved = json.loads((tmp_path / "nonfinite_batch.json").read_text())
    assert saved == {"step": 4, "images": ["3-a.png", "3-b.png"]}
    assert log.lines == []  # no mean of what is no number


def test_parameters_not_finite(meter):
    """The loss comes before the update: it cannot vouch for what is saved."""
    add(meter, range(2))
    with pytest.raises(
        RunError, match="step 2: loss 1.0, gradient norm 1.0, parameters no longer finite"
    ):
        meter.flush({"a": jnp.ones(3), "b": jnp.array([1.0, jnp.inf])})


@pytest.mark.parametrize("mode", ["max", "min"])
def test_patience(mode):
    sign = 1 if mode == "max" else -1
    patience = Patience(mode, 2, min_delta=0.1)
    values = [0.5, 0.55, 0.65, 0.7, 0.6, 0.9, float("nan"), 0.8, 0.8]
    assert [patience.update(sign * v) for v in values] == [False] * 4 + [
        True,
        False,
        False,
        True,
        False,
    ]


def test_patience_survives_a_checkpoint():
    values = [0.5, 0.4, 0.6, 0.5, 0.5, 0.5, 0.7]
    uninterrupted = Patience("max", 2)
    expected = [uninterrupted.update(v) for v in values]
    for cut in range(len(values)):
        first = Patience("max", 2)
        second = Patience("max", 2)
        begun = [first.update(v) for v in values[:cut]]
        second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
        assert begun + [second.update(v) for v in values[cut:]] == expected
