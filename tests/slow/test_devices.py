"""The step on every number of devices, and that of a ViT; tests/training/test_step.py has that of a
ResNet on one and on eight."""

import pytest

from tests.training.test_step import check_devices, check_many_steps, check_pmap


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_every_number_of_devices(float64, kind):
    check_devices(kind, (1, 2, 4, 8))


def test_a_vit_equals_pmap(float64):
    check_pmap("vit", 1)


def test_many_steps_of_a_vit_in_one_dispatch(float64):
    check_many_steps("vit")
