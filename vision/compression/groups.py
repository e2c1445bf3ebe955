"""Finds the channels of a model that can be removed, and everything that goes with each of them."""

import dataclasses
from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import sparse

from vision.compression.trace import FIXED, ChannelTracer
from vision.models.layers.norms import BatchNorm
from vision.models.surgery import Frozen


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that share the same axes of the same variables; each can be cut on its own.

    Such as the channels between two convolutions; those of a residual stream; the heads of an
    attention.

    Attributes:
        parts: {(name of a variable, axis): int (N, k)}, the indices along that axis that belong to
            each of the N channels.
        filters: the keys of `parts` that compute the channels: last axes of kernels.
        readers: the keys of `parts` that read the channels: other axes of kernels.
        scales: names of the scales of batch norms.
    """

    parts: dict[tuple[str, int], np.ndarray]
    filters: tuple[tuple[str, int], ...]
    readers: tuple[tuple[str, int], ...]
    scales: tuple[str, ...]

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    @property
    def name(self) -> str:
        """The first layer that computes the channels."""
        return self.filters[0][0].rpartition(".")[0]


def find_groups(model: nnx.Module, image_size: int, channels: int) -> list[Group]:
    """Returns the `Group`s of a model, in the order of their first layers.

    Channels cannot be cut if a result depends on their number in other ways than a product or a sum
    that zeros do not change: such as the channels that a LayerNorm or CBAM's spatial gate averages
    over.

    Args:
        model: an `nnx.Module` of `vision.models`, abstract or not, in evaluation mode.
        image_size: side of the images, pixels.
        channels: channels of the images.
    """
    state = nnx.to_flat_state(nnx.state(model))
    images = jax.ShapeDtypeStruct((2, image_size, image_size, channels), jnp.float32)
    axes, owners = _number_axes([variable for _, variable in state])
    tracer = ChannelTracer()
    jaxpr = _forward_jaxpr(model, state, images)
    outputs = tracer.run(jaxpr, [*axes, [np.zeros(n, int) for n in images.shape]])
    tracer.fix(*(axis for output_axes in outputs for axis in output_axes))
    labels = _components(tracer.edges, len(owners))
    variables = _Variables(model, state)
    channels_by_axes = _channels_by_axes(labels, owners, variables)
    return [variables.group(*item) for item in channels_by_axes.items()]


def _number_axes(variables):
    """Numbers each index of each axis of each variable; those that cannot be cut are `FIXED`.

    Returns:
        (a list of axes for each variable, as `ChannelTracer` takes them; int (M, 3), the variable,
        axis and index of each number).
    """
    axes = []
    owners = [(0, 0, 0)]  # of FIXED
    for position, variable in enumerate(variables):
        can_cut = isinstance(variable, nnx.Param | nnx.BatchStat | Frozen)
        axes.append([])
        for axis, length in enumerate(variable.shape):
            first = len(owners)
            owners += [(position, axis, i) for i in range(length)]
            numbers = np.arange(first, first + length) if can_cut else np.full(length, FIXED)
            axes[-1].append(numbers)
    return axes, np.array(owners)


def _forward_jaxpr(model, state, images):
    """Returns the jaxpr of a model's forward pass, whose inputs are its variables and the images.

    Args:
        model: the model.
        state: its flat state, a list of (path, variable).
        images: the `jax.ShapeDtypeStruct` of the images.
    """
    graph = nnx.graphdef(model)

    def forward(values, images):
        pairs = zip(state, values, strict=True)
        filled = nnx.from_flat_state([(path, v.replace(value)) for (path, v), value in pairs])
        return _outputs(nnx.merge(graph, filled), images)

    values = [jax.typeof(v.get_value()) for _, v in state]
    return jax.make_jaxpr(forward)(values, images).jaxpr


def _outputs(model: Any, images: jax.Array) -> Any:
    """Returns everything that a model computes: its logits, and those of an auxiliary head."""
    if getattr(model, "auxiliary", None) is None:
        return model(images)
    features = model.features(images)
    *_, last = features.values()
    return model.head(model.pool(last)), model.auxiliary_logits(features)


def _components(edges, count):
    """Returns the number of the connected component of each node."""
    a, b = (np.concatenate(side) for side in zip(*edges, strict=True))
    adjacency = sparse.coo_matrix((np.ones(len(a), bool), (a, b)), shape=(count, count))
    return sparse.csgraph.connected_components(adjacency, directed=False)[1]


class _Variables:
    """The names and ranks of a model's variables, by position.

    Attributes:
        names: names.
        ranks: numbers of axes.
    """

    def __init__(self, model, state):
        self.names = [".".join(map(str, path)) for path, _ in state]
        self.ranks = [len(variable.shape) for _, variable in state]
        self._norms = {
            ".".join(map(str, path))
            for path, module in nnx.iter_modules(model)
            if isinstance(module, BatchNorm)
        }

    def is_last_axis(self, position, axis):
        return axis == self.ranks[position] - 1

    def group(self, signature, channels):
        """Returns the `Group` of channels with the same signature; see `_channels_by_axes`."""
        keys = [key for key, _ in signature]
        parts = {
            (self.names[position], axis): np.array(
                [channel[position, axis] for channel in channels]
            )
            for position, axis in keys
        }
        kernels = [key for key in keys if self.names[key[0]].endswith("kernel")]
        filters = [key for key in kernels if self.is_last_axis(*key)]
        readers = [key for key in kernels if not self.is_last_axis(*key)]
        return Group(
            parts,
            filters=tuple((self.names[position], axis) for position, axis in filters),
            readers=tuple((self.names[position], axis) for position, axis in readers),
            scales=tuple(name for name, _ in parts if self._is_norm_scale(name)),
        )

    def _is_norm_scale(self, name):
        return name.rpartition(".")[0] in self._norms and name.endswith("scale")


def _channels_by_axes(labels, owners, variables):
    """Returns the channels that can be cut, by the axes that they lie on.

    They are the connected components that are not fixed.

    Args:
        labels: the component of each number.
        owners: int (M, 3), the variable, axis and index of each number.
        variables: the model's `_Variables`.

    Returns:
        {signature: [channel]}: a channel is {(variable, axis): indices}, a signature the tuple of
        its ((variable, axis), number of indices).
    """
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    by_signature = defaultdict(list)
    for nodes in np.split(order, starts):
        if len(nodes) < 2 or labels[nodes[0]] == labels[FIXED]:
            continue
        channel = defaultdict(list)
        for position, axis, index in owners[nodes].tolist():
            channel[position, axis].append(index)
        is_last = {variables.is_last_axis(*key) for key in channel if variables.ranks[key[0]] > 1}
        if is_last == {False, True}:  # a kernel computes it, and another reads it
            signature = tuple((key, len(indices)) for key, indices in sorted(channel.items()))
            by_signature[signature].append(channel)
    return by_signature
