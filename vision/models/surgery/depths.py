"""The layer that each variable of a model belongs to, from the image to the head."""

from flax import nnx

from vision.models.surgery.variables import variables


def depths(model: nnx.Module) -> dict[str, int]:
    """Returns {name: layer} of all variables, counted from 0 at the image to the head.

    Everything before the first list of blocks is layer 0, each block of a list is one layer, what
    follows a list belongs to its last block, and the head is the last layer. Layers are counted in
    the order in which `__init__` sets the model's attributes, so a model must set them in the order
    in which it uses them. A model that `nnx.split` and `nnx.merge` rebuilt has lost that order:
    call this on one that was just built.
    """
    layer_of: dict[str, int] = {}
    layer = 0
    after_stem = False
    for prefix, is_block in _units(model, ""):
        if prefix == "head" or is_block:
            layer += 1 if after_stem or layer_of else 0
            after_stem = True
        layer_of[prefix] = layer
    unit_of = {name: next(p for p in _prefixes(name) if p in layer_of) for name in variables(model)}
    return {name: layer_of[prefix] for name, prefix in unit_of.items()}


def _prefixes(name):
    """Returns "a.b.c", "a.b" and "a" of "a.b.c"."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts), 0, -1)]


def _units(module, prefix):
    """Yields (name, whether it is a block of a list) of each variable or submodule, in order."""
    for key, value in vars(module).items():
        name = f"{prefix}{key}"
        if isinstance(value, nnx.List):
            yield from _blocks(value, name)
        elif isinstance(value, nnx.Variable | nnx.Module):
            yield name, False


def _blocks(blocks, name):
    for i, block in enumerate(blocks):
        if isinstance(block, nnx.List):
            yield from _blocks(block, f"{name}.{i}")
        elif isinstance(getattr(block, "blocks", None), nnx.List):
            yield from _units(block, f"{name}.{i}.")
        else:
            yield f"{name}.{i}", True
