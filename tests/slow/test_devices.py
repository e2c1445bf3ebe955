"""The step on every number of devices; tests/training/test_step.py compares one with eight."""

import pytest

from tests.training.test_step import check_devices


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_every_number_of_devices(float64, kind):
    check_devices(kind, (1, 2, 4, 8))
