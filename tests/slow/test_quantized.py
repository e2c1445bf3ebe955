"""Quantization-aware training on several devices."""

import numpy as np
import pytest

from tests.training.test_step import beginning, config, largest_difference, make, run, tiny
from vision.objectives.quantized import simulate


def simulated(kind):
    objective = tiny(kind)
    simulate(objective.model, "int8")
    return objective


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_same_on_devices_that_share_the_state(float64, kind):
    """The range is that of the whole batch, wherever its images lie."""
    ends = {}
    for devices, fsdp in ((1, 1), (4, 2)):
        step = make(config(), lambda: simulated(kind), devices, fsdp)
        ends[devices] = run(step, step.begin(*beginning(kind, "float64")), 3, devices)
    np.testing.assert_allclose(ends[1][1], ends[4][1], rtol=0, atol=1e-10)
    assert largest_difference(ends[1][0]["params"], ends[4][0]["params"]) < 1e-9
    step = make(config(), lambda: tiny(kind))
    plain = run(step, step.begin(*beginning(kind, "float64")), 3)
    assert 1e-5 < np.abs(plain[1] - ends[1][1]).max() < 0.3
