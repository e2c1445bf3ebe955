"""The only file that takes an objective apart and puts it together again.

Between steps a run is a plain nested dict of arrays with string keys: what `jax.jit` dispatches
fastest and what a checkpoint holds. Inside the step the objective is a Flax NNX module again.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from vision.errors import UserError
from vision.models import surgery
from vision.models.layers.norms import BatchNorm

Tree = dict[str, Any]  # a nested dict of arrays, or of their shapes and dtypes
ALL = ""  # the player of an objective that names none: it updates every learned attribute


class StateSpec:
    """What an objective is, without its numbers.

    Args:
        create: builds the objective; called abstractly here and once more by `initialize`.

    Attributes:
        players: {player: names of the attributes that it updates}; {"": all} if the objective names
            no players.
        whole_batch: whether the loss needs all images of a batch at once.
        constant: names of the attributes that never change, which checkpoints leave out.
        has_after_update: whether the objective has `after_update`.
        takes_gradients: whether that takes the step's gradients.
        adapts_to_data: whether its model has `initialize_from_data(images)`, which must be called
            before the first step.
        parameters: (number of parameters, number of those that learn).

    Raises:
        UserError: `frozen`, `constant` or `players` do not fit the objective's attributes.
    """

    def __init__(self, create: Callable[[], Any]):
        self._create = create
        objective = nnx.eval_shape(create)
        self._frozen = tuple(getattr(objective, "frozen", ()))
        for attribute in self._frozen:
            if not hasattr(objective, attribute):
                name = type(objective).__name__
                raise UserError(f"{name}.frozen names '{attribute}', which {name} does not have")
        self.constant = tuple(getattr(objective, "constant", ()))
        for attribute in self.constant:
            if attribute not in self._frozen:
                name = type(objective).__name__
                raise UserError(f"{name}.constant names '{attribute}', which must be frozen too")
        self.whole_batch = bool(getattr(objective, "whole_batch", False))
        after_update = getattr(objective, "after_update", None)
        self.has_after_update = after_update is not None
        self.takes_gradients = (
            after_update is not None and "gradients" in inspect.signature(after_update).parameters
        )
        self.adapts_to_data = hasattr(getattr(objective, "model", None), "initialize_from_data")
        self._graph, self._params, self._rngs, self._rest = self._split(objective)
        self._statistics = self._following(objective)
        self.parameters = (surgery.count(objective)[0], _count(self.abstract_params))
        self.players = _players(objective, self.abstract_params)

    @property
    def abstract_params(self) -> Tree:
        """The learned parameters' shapes and dtypes."""
        return _to_dict(self._params)

    def initialize(self) -> tuple[Tree, Tree]:
        """Returns (params, rest): the learned parameters, and all else that steps hand on."""
        return self.take_apart(self._create())

    def merge(self, params: Tree, rest: Tree, key: jax.Array) -> Any:
        """Builds the objective from the dicts of `initialize` or `take_apart`.

        Args:
            params: the learned parameters.
            rest: everything else.
            key: where dropout and the like draw from. Nothing random is kept between steps, so a
                step depends on its number only, and a resumed run repeats it exactly.
        """
        return nnx.merge(
            self._graph,
            _fill(self._params, params),
            _seed(self._rngs, key),
            _fill(self._rest, rest),
            copy=True,
        )

    def take_apart(self, objective: Any) -> tuple[Tree, Tree]:
        """Returns (params, rest) of an objective that `merge` built."""
        _, params, _, rest = self._split(objective)
        return _to_dict(params), _to_dict(rest)

    def statistics(self, rest: Tree) -> Tree:
        """Returns the part of `rest` that is BatchNorm's running averages, if they follow.

        Those of what is frozen, by the objective or by `config.transfer`, do not.
        """
        flat = traverse_util.flatten_dict(rest)
        return traverse_util.unflatten_dict(
            {path: value for path, value in flat.items() if path in self._statistics}
        )

    def with_statistics(self, rest: Tree, statistics: Tree) -> Tree:
        """Returns `rest` with other running averages, in the form of `statistics`."""
        flat = traverse_util.flatten_dict(rest) | traverse_util.flatten_dict(statistics)
        return traverse_util.unflatten_dict(flat)

    def set_training(self, objective: Any) -> None:
        """Puts an objective into training mode, and what it keeps frozen into evaluation mode.

        BatchNorm's statistics of a frozen attribute then stay, and its dropout is off.
        """
        objective.train()
        for attribute in self._frozen:
            frozen = getattr(objective, attribute)
            if isinstance(frozen, nnx.Module):
                frozen.eval()

    def _following(self, objective: Any) -> set[tuple[str, ...]]:
        """Returns the paths of the running averages that training changes."""
        still = {
            tuple(map(str, path))
            for path, module in nnx.iter_modules(objective)
            if isinstance(module, BatchNorm) and module.frozen
        }
        paths = {
            tuple(map(str, path))
            for path, variable in nnx.to_flat_state(self._rest)
            if isinstance(variable, nnx.BatchStat) and path[0] not in self._frozen
        }
        return {path for path in paths if path[:-1] not in still}

    def _split(self, objective: Any) -> tuple[Any, nnx.State, nnx.State, nnx.State]:
        def is_learned(path: tuple[Any, ...], value: Any) -> bool:
            return isinstance(value, nnx.Param) and path[0] not in self._frozen

        parts: Any = nnx.split(objective, is_learned, nnx.RngState, ...)
        return parts


def select(tree: Tree, attributes: tuple[str, ...]) -> Tree:
    """Returns the part of a tree that belongs to some of the objective's attributes."""
    return {name: tree[name] for name in attributes}


def _players(objective: Any, params: Tree) -> dict[str, tuple[str, ...]]:
    declared = getattr(objective, "players", None)
    if not declared:
        return {ALL: tuple(params)}
    name = type(objective).__name__
    updated = [attribute for attributes in declared.values() for attribute in attributes]
    unknown = set(updated) - set(params)
    idle = set(params) - set(updated)
    if unknown:
        raise UserError(f"{name}.players names '{min(unknown)}', which has nothing to learn")
    if idle:
        raise UserError(f"'{min(idle)}' learns, but no player of {name}.players updates it")
    if len(updated) > len(set(updated)):
        raise UserError(f"two players of {name}.players update the same attribute")
    return {player: tuple(attributes) for player, attributes in declared.items()}


def _count(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _to_dict(state: nnx.State) -> Tree:
    flat = {
        tuple(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)
    }
    return traverse_util.unflatten_dict(flat)


def _fill(template: nnx.State, values: Tree) -> nnx.State:
    flat = traverse_util.flatten_dict(values)
    return nnx.from_flat_state(
        [
            (path, variable.replace(flat[tuple(map(str, path))]))
            for path, variable in nnx.to_flat_state(template)
        ]
    )


def _seed(template: nnx.State, key: jax.Array) -> nnx.State:
    """Returns random streams that draw from `key`, each from a part of its own."""

    def variables() -> Iterator[tuple[Any, Any]]:
        for i, (path, variable) in enumerate(nnx.to_flat_state(template)):
            if isinstance(variable, nnx.RngKey):
                yield path, variable.replace(jax.random.fold_in(key, i))
            else:
                yield path, variable.replace(jnp.zeros(variable.shape, variable.dtype))

    return nnx.from_flat_state(list(variables()))
