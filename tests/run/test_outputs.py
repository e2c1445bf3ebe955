"""Heads that get outputs for new classes."""

import pytest

from vision.config import default
from vision.models import surgery
from vision.models.surgery.widths import of_option
from vision.run.outputs import with_outputs
from vision.run.weights import abstract_model


def model_config(name, variant):
    c = default().model
    c.name = name
    c.variant = variant
    return c


def test_new_outputs_come_last_with_a_share_of_one():
    c = model_config("mlp", "8x1")
    c.head_groups = (0, 1, 1)
    c.head_shares = (1.0, 0.5, 0.5)
    grown = with_outputs(c, 4, 8, 1)
    assert grown.head_groups == (0, 1, 1, 2, 3)
    assert grown.head_shares == (1.0, 0.5, 0.5, 1.0, 1.0)
    assert with_outputs(grown, 4, 8, 1).to_dict() == grown.to_dict()
    assert with_outputs(model_config("mlp", "8x1"), 4, 8, 1).head_groups == ()
    assert c.head_groups == (0, 1, 1)


@pytest.mark.parametrize(("groups", "outputs"), [((), 4), ((0, 1, 1), 5)])
def test_only_the_classes_of_a_pruned_model_grow(groups, outputs):
    """An auxiliary head has them too; its convolution has as many channels as it was left."""
    c = model_config("inception", "v3")
    c.options.auxiliary = True
    c.head_groups = groups
    count = len(groups) or 3
    heads = {"kernel": [2048, count]}
    auxiliary_heads = {"kernel": [count, count]}
    if groups:
        heads = {"inner": heads}
        auxiliary_heads = {"inner": auxiliary_heads}
    convolution = {"conv": {"kernel": [5, 5, 128, count]}}
    auxiliary = {"layers": {"1": convolution}, "head": auxiliary_heads}
    c.options.pruned = {"head": heads, "auxiliary": auxiliary}
    grown = with_outputs(c, 4, 299, 3)
    inner = "inner." if groups else ""
    assert of_option(grown.options.pruned.to_dict()) == {
        f"head.{inner}kernel": (2048, outputs),
        "auxiliary.layers.1.conv.kernel": (5, 5, 128, count),
        f"auxiliary.head.{inner}kernel": (count, outputs),
    }


def test_a_pruned_model_can_be_built_for_more_classes():
    c = model_config("mlp", "8x1")
    c.options.pruned = {"head": {"kernel": [6, 3]}, "layers": {"0": {"kernel": [64, 6]}}}
    c.options.pruned.layers["0"].bias = [6]
    grown = abstract_model(with_outputs(c, 5, 8, 1), 5, 8, 1)
    shapes = {name: variable.shape for name, variable in surgery.variables(grown).items()}
    assert shapes["head.kernel"] == (6, 5) and shapes["head.bias"] == (5,)
