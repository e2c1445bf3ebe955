"""Values for the variables of a state, by the names that they have in an attribute."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from vision import parallel
from vision.errors import UserError
from vision.models.surgery import plain_name
from vision.models.surgery.variables import can_grow
from vision.training.state import Tree

State = dict[str, Any]
Values = Mapping[str, Mapping[str, np.ndarray]]  # {attribute: {name of a variable in it: array}}


def check_values(abstract_state: State, values: Values, copies: tuple[str, ...] = ()) -> None:
    """Checks the arguments of `placed`.

    Args:
        abstract_state: the state's shapes.
        values: see `placed`.
        copies: see `placed`.

    Raises:
        UserError: there is no such attribute; or a variable of an attribute other than the model is
            missing in what it starts from, or has a shape there that cannot grow to its own.
    """
    variables = traverse_util.flatten_dict(abstract_state["rest"])
    variables |= traverse_util.flatten_dict(abstract_state["params"])
    unknown = {*values, *copies} - {path[0] for path in variables}
    if unknown:
        raise UserError(f"the objective has no attribute '{min(unknown)}' with variables")
    for (attribute, *parts), variable in variables.items():
        name = ".".join(parts)
        if attribute in copies:
            start = variables.get(("model", *parts))
        elif attribute in values and attribute != "model":
            start = values[attribute].get(_name_in(values[attribute], parts))
        else:
            continue
        if start is None:
            raise UserError(f"what '{attribute}' starts from has no variable '{name}'")
        is_importance = parts[0] in ("importance", "anchor")  # for fewer classes
        grows = is_importance and can_grow(start.shape, variable.shape)
        if start.shape != variable.shape and not grows:
            raise UserError(
                f"'{attribute}' has {name} of shape {variable.shape}, but what it starts from "
                f"has shape {start.shape}"
            )


def placed(state: State, values: Values, copies: tuple[str, ...], mesh: Mesh) -> tuple[Tree, Tree]:
    """Returns (params, rest) of a state with other values for some variables.

    A value for fewer classes fills its part of the variable: a head grows.

    Args:
        state: the state.
        values: the values, for attributes of the objective.
        copies: attributes that then become copies of the model.
        mesh: from `vision.parallel.make_mesh`.
    """
    params = traverse_util.flatten_dict(state["params"])
    rest = traverse_util.flatten_dict(state["rest"])
    for tree in (params, rest):
        _place(tree, values, mesh)
    for tree in (params, rest):
        for path in tree:
            source = ("model", *path[1:])
            if path[0] in copies:
                tree[path] = params[source] if source in params else rest[source]
    return traverse_util.unflatten_dict(params), traverse_util.unflatten_dict(rest)


class Constants:
    """What never changes in a state, so that checkpoints leave it out.

    Args:
        abstract_state: the whole state's shapes, dtypes and shardings.
        values: the values of the attributes that never change.
        mesh: from `vision.parallel.make_mesh`.

    Attributes:
        saved_state: the shapes, dtypes and shardings of what a checkpoint holds.

    Raises:
        UserError: see `check_values`.
    """

    def __init__(self, abstract_state: State, values: Values, mesh: Mesh):
        check_values(abstract_state, values)
        self._shapes = {name: abstract_state["rest"][name] for name in values}
        self._values = values
        self._mesh = mesh
        self.saved_state = self.taken_from(abstract_state)

    def taken_from(self, state: State) -> State:
        """Returns a state without what never changes."""
        rest = {name: tree for name, tree in state["rest"].items() if name not in self._values}
        return state | {"rest": rest}

    def added_to(self, state: State) -> State:
        """Returns the whole state from that of a checkpoint."""
        if not self._values:
            return state
        variables = traverse_util.flatten_dict(self._shapes)
        _place(variables, self._values, self._mesh)
        constants = traverse_util.unflatten_dict(variables)
        shardings = jax.tree.map(lambda shape: shape.sharding, self._shapes)
        place = jax.jit(lambda tree: tree, out_shardings=shardings)
        return state | {"rest": state["rest"] | place(constants)}


def _place(variables: dict[tuple[str, ...], Any], values: Values, mesh: Mesh) -> None:
    """Replaces variables, {path: array}, by the arrays of their names."""
    for (attribute, *parts), variable in variables.items():
        if attribute not in values:
            continue
        name = _name_in(values[attribute], parts)
        if name in values[attribute]:
            array = np.asarray(values[attribute][name], variable.dtype)
            if array.shape != variable.shape:
                array = _grown(array, variable)
            variables[(attribute, *parts)] = parallel.put_replicated(array, mesh)


def _grown(array: np.ndarray, variable: Any) -> np.ndarray:
    """Returns a variable with an array in its first places; 0 elsewhere, if it is abstract."""
    if isinstance(variable, jax.ShapeDtypeStruct):
        grown = np.zeros(variable.shape, variable.dtype)
    else:
        grown = np.array(parallel.fetch(variable))
    grown[tuple(map(slice, array.shape))] = array
    return grown


def _name_in(values: Mapping[str, Any], path: Sequence[str]) -> str:
    """Returns the name of a variable in `values`, which have no low-rank updates."""
    name = ".".join(path)
    return name if name in values else plain_name(name)
