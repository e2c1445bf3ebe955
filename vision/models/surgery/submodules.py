"""A model's submodules by name, and their replacement."""

from typing import Any

from flax import nnx

from vision.errors import UserError


def locate(model: nnx.Module, name: str) -> tuple[Any, str | int]:
    """Returns (the module or list that holds the submodule `name`, its attribute or index there).

    Raises:
        UserError: the model has no such submodule.
    """
    *above, key = (int(part) if part.isdecimal() else part for part in name.split("."))
    parent = model
    try:
        for part in above:
            parent = get_child(parent, part)
        get_child(parent, key)
    except (AttributeError, IndexError, TypeError) as error:
        raise UserError(f"the model has no submodule '{name}'") from error
    return parent, key


def get_child(parent: Any, key: str | int) -> Any:
    """Returns the submodule at an attribute or index of a module or list."""
    return parent[key] if isinstance(key, int) else getattr(parent, key)


def set_child(parent: Any, key: str | int, module: nnx.Module) -> None:
    """Sets the submodule at an attribute or index of a module or list."""
    if isinstance(key, int):
        parent[key] = module
    else:
        setattr(parent, key, module)


def replace_head(model: Any, num_classes: int, *, rngs: nnx.Rngs) -> None:
    """Gives the model a new `head`: an `nnx.Linear` for `num_classes` classes that starts at 0."""
    old = model.head
    model.head = nnx.Linear(
        old.in_features,
        num_classes,
        kernel_init=nnx.initializers.zeros_init(),
        dtype=old.dtype,
        rngs=rngs,
    )


def insert_after(model: nnx.Module, name: str, module: nnx.Module) -> None:
    """Applies `module` to the output of the submodule `name`; both become one `nnx.Sequential`.

    Raises:
        UserError: the model has no such submodule.
    """
    parent, key = locate(model, name)
    set_child(parent, key, nnx.Sequential(get_child(parent, key), module))
