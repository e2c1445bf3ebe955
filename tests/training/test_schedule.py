"""Learning-rate schedules: their values over time."""

import math

import pytest

from vision.config import default
from vision.errors import UserError
from vision.training.optimizer import SCHEDULES, make_schedule

RATE = 0.01


def schedule(name, steps=1000, **keys):
    c = default().schedule
    c.name = name
    c.update(keys)
    return make_schedule(c, RATE, steps)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1000, 200])
def test_the_warmup_rises_from_0_to_the_peak(name, steps):
    rate = schedule(name, steps, warmup=0.1, timescale=0.05)
    if name == "cosine":  # begins at the peak
        assert rate(0) == pytest.approx(RATE)
        return
    assert rate(0) == 0
    assert rate(steps // 20) == pytest.approx(RATE / 2, rel=1e-5)
    if name != "rsqrt":  # whose timescale ended before
        assert rate(steps // 10) == pytest.approx(RATE, rel=1e-5)


def cosine(share):
    return 0.5 + 0.5 * math.cos(math.pi * share)


@pytest.mark.parametrize("steps", [1000, 200])
@pytest.mark.parametrize(
    "name, keys, shares",
    [
        ("cosine", {}, {0: 1, 0.25: cosine(0.25), 0.5: 0.5, 1: 0}),
        ("cosine", {"final": 0.2}, {0: 1, 0.5: 0.6, 1: 0.2}),
        ("warmup_cosine", {"warmup": 0.2}, {0.1: 0.5, 0.2: 1, 0.6: 0.5, 0.8: cosine(0.75), 1: 0}),
        ("warmup_cosine", {"warmup": 0.2, "final": 0.1}, {0: 0, 0.2: 1, 0.6: 0.55, 1: 0.1}),
        (
            "cosine7_16",
            {"warmup": 0.0},
            {0: 1, 0.5: math.cos(7 * math.pi / 32), 1: math.cos(7 * math.pi / 16)},
        ),
        ("linear", {"warmup": 0.2}, {0.1: 0.5, 0.2: 1, 0.6: 0.5, 1: 0}),
        ("linear", {"warmup": 0.0, "final": 0.5}, {0: 1, 0.5: 0.75, 1: 0.5}),
        ("constant", {"warmup": 0.2}, {0.1: 0.5, 0.2: 1, 1: 1}),
        ("plateau", {"warmup": 0.0}, {0: 1, 0.5: 1, 1: 1}),
        (
            "step",
            {"warmup": 0.0, "boundaries": (0.5, 0.75)},
            {0: 1, 0.495: 1, 0.5: 0.1, 0.745: 0.1, 0.75: 0.01, 1: 0.01},
        ),
        (
            "step",
            {"warmup": 0.2, "boundaries": (0.4,), "factor": 0.5},
            {0: 0, 0.1: 0.5, 0.2: 1, 0.4: 0.5, 1: 0.5},
        ),
        ("step", {"warmup": 0.0, "boundaries": ()}, {0: 1, 1: 1}),
        (
            "linear",
            {"warmup": 0.2, "start": 0.2, "final": 0.07},
            {0: 0.2, 0.1: 0.6, 0.2: 1, 0.6: 0.535, 1: 0.07},
        ),
        (
            "warmup_cosine",
            {"warmup": 0.2, "start": 0.5},
            {0: 0.5, 0.1: 0.75, 0.2: 1, 0.6: 0.5, 1: 0},
        ),
        (
            "step",
            {"warmup": 0.2, "start": 0.5, "boundaries": (0.4,)},
            {0: 0.5, 0.1: 0.75, 0.2: 1, 0.4: 0.1},
        ),
        (
            "rsqrt",
            {"warmup": 0.1, "start": 0.5, "timescale": 0.25},
            {0: 0.5, 0.05: 0.75, 0.1: 1, 1: 0.5},
        ),
        ("constant", {"warmup": 0.2, "start": 1.0}, {0: 1, 0.1: 1, 1: 1}),
        (
            "rsqrt",
            {"warmup": 0.0, "timescale": 0.25},
            {0: 1, 0.2: 1, 0.25: 1, 0.5: 0.5**0.5, 1: 0.5},
        ),
        (
            "rsqrt",
            {"warmup": 0.1, "timescale": 0.25},
            {0: 0, 0.05: 0.5, 0.1: 1, 0.5: 0.5**0.5, 1: 0.5},
        ),
    ],
)
def test_the_rate_over_time(name, keys, shares, steps):
    rate = schedule(name, steps, **keys)
    ours = {share: float(rate(round(share * steps))) / RATE for share in shares}
    assert ours == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_no_warmup_or_nothing_but_warmup(name, warmup, steps):
    rate = schedule(name, steps, warmup=warmup)
    values = [float(rate(step)) for step in range(steps + 1)]
    assert all(0 <= value <= RATE * (1 + 1e-6) for value in values)
    if warmup == 0 and (name, steps) != ("step", 1):  # whose one step is past the first drop
        assert values[0] == pytest.approx(RATE)


def test_drops_that_fall_on_one_step_all_count():
    assert schedule("step", 2, warmup=0.0, boundaries=(0.4, 0.5, 0.6))(2) == pytest.approx(
        RATE * 1e-3
    )


def test_unknown_names():
    with pytest.raises(
        UserError, match=r"schedule.name = 'cosin' is unknown \(did you mean 'cosine'\?\).*plateau"
    ):
        schedule("cosin")
