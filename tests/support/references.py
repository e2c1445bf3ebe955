"""Models with the weights that make_references.py stored, for the parity tests."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

FOLDER = Path(__file__).parent.parent / "models" / "references"


def to_ours(array):
    """Returns a kernel in Flax's layout: OIHW -> HWIO, OI -> IO."""
    return np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim in (2, 4) else array


def load(name, create, torch_name, kept=...):
    """Returns (model, reference): `create()` with the weights of a file, and the file's arrays.

    Args:
        name: name of the file in references/, without .npz.
        create: builds the model; called abstractly.
        torch_name: maps the path of one of our variables to the stored name. Both sides must have
            the same names.
        kept: nnx's filter of the variables that are stored.
    """
    with np.load(FOLDER / f"{name}.npz") as file:
        reference = dict(file)
    model = nnx.eval_shape(create)
    state = nnx.to_flat_state(nnx.state(model, kept))
    names = [torch_name(path) for path, _ in state]
    assert sorted(names) == sorted(
        k.removeprefix("weights/") for k in reference if k.startswith("weights/")
    )
    for weights_name, (_, variable) in zip(names, state, strict=True):
        array = to_ours(reference[f"weights/{weights_name}"])
        assert array.shape == variable.shape, weights_name
        variable.set_value(jnp.asarray(array))
    return model, reference
