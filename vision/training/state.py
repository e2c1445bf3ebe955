"""The only file that takes an objective apart and puts it together again.

Between steps a run is a plain nested dict of arrays with string keys: what `jax.jit` dispatches
fastest and what a checkpoint holds. Inside the step the objective is a Flax NNX module again.
"""

import jax
from flax import nnx, traverse_util

from vision.models import surgery


class StateSpec:
    """What an objective is, without its numbers.

    Args:
        create: builds the objective; called abstractly here and once more by `initialize`.

    Attributes:
        has_after_update: whether the objective has `after_update`.
        adapts_to_data: whether its model has `initialize_from_data(images)`, to be called before
            the first step.
        parameters: (how many there are, how many of them learn).
    """

    def __init__(self, create):
        self._create = create
        abstract = nnx.eval_shape(create)
        self._frozen = tuple(getattr(abstract, "frozen", ()))
        self.has_after_update = hasattr(abstract, "after_update")
        self.adapts_to_data = hasattr(getattr(abstract, "model", None), "initialize_from_data")
        self.parameters = surgery.count(abstract)
        self._graph, self._params, self._rngs, self._rest = self._split(abstract)

    @property
    def abstract_params(self):
        """The learned parameters' shapes and dtypes, as a nested dict."""
        return _to_dict(self._params)

    def initialize(self):
        """Returns (params, rest): the learned parameters, and everything else that is kept between
        steps."""
        return self.take_apart(self._create())

    def merge(self, params, rest, key):
        """Builds the objective from `initialize`'s or `take_apart`'s dicts.

        Args:
            key: where dropout and the like draw from; nothing random is kept between steps, so that
                a step depends on its number alone and a resumed run repeats it exactly.
        """
        return nnx.merge(
            self._graph,
            _fill(self._params, params),
            _seed(self._rngs, key),
            _fill(self._rest, rest),
            copy=True,
        )

    def take_apart(self, objective):
        """Returns (params, rest) of an objective that `merge` built."""
        _, params, _, rest = self._split(objective)
        return _to_dict(params), _to_dict(rest)

    def _split(self, objective):
        def learned(path, value):
            return isinstance(value, nnx.Param) and path[0] not in self._frozen

        return nnx.split(objective, learned, nnx.RngState, ...)


def _to_dict(state):
    flat = {
        tuple(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)
    }
    return traverse_util.unflatten_dict(flat)


def _fill(template, values):
    flat = traverse_util.flatten_dict(values)
    return nnx.from_flat_state(
        [
            (path, variable.replace(flat[tuple(map(str, path))]))
            for path, variable in nnx.to_flat_state(template)
        ]
    )


def _seed(template, key):
    def value(i, variable):
        if isinstance(variable, nnx.RngKey):
            return jax.random.fold_in(key, i)
        return jax.numpy.zeros(variable.shape, variable.dtype)

    flat = enumerate(nnx.to_flat_state(template))
    return nnx.from_flat_state(
        [(path, variable.replace(value(i, variable))) for i, (path, variable) in flat]
    )
