"""The channels of a model that can be removed, and all that goes with each of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import sparse

from vision.compression.trace import FIXED, Trace
from vision.models.layers.norms import BatchNorm
from vision.models.surgery import Frozen


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that hang together with the same axes of the same variables, each of which can be
    cut alone.

    Such as the channels between two convolutions; those of a residual stream; the heads of an
    attention.

    Attributes:
        parts: {(name of a variable, axis): int (N, k)}, what of that axis goes with each of the N
            channels.
        filters: those of `parts` that the channel comes from: last axes of kernels.
        readers: those that take it in: other axes of kernels.
        scales: names of the scales of batch norms.
    """

    parts: dict
    filters: tuple
    readers: tuple
    scales: tuple

    def __len__(self):
        return len(next(iter(self.parts.values())))

    @property
    def name(self):
        """The layer that the channels come from first."""
        return self.filters[0][0].rpartition(".")[0]


def find_groups(model, image_size, channels):
    """Returns the `Group`s of a model, in the order of their first layers.

    What changes with how many channels there are, beyond a product or a sum that zeros do not
    change, cannot be cut: so with the channels that a LayerNorm or CBAM's spatial gate averages
    over.

    Args:
        model: an `nnx.Module` as `vision.models` has it, abstract or not, in evaluation mode.
        image_size: pixels.
        channels: of the images.
    """
    state = nnx.to_flat_state(nnx.state(model))
    names = [".".join(map(str, path)) for path, _ in state]
    graph = nnx.graphdef(model)

    def forward(values, images):
        found = zip(state, values, strict=True)
        whole = nnx.merge(
            graph, nnx.from_flat_state([(path, v.replace(value)) for (path, v), value in found])
        )
        return _outputs(whole, images)

    values = [jax.typeof(v.get_value()) for _, v in state]
    images = jax.ShapeDtypeStruct((2, image_size, image_size, channels), jnp.float32)
    jaxpr = jax.make_jaxpr(forward)(values, images)
    trace = Trace()
    axes = []
    owners = [(0, 0, 0)]
    for place, (_, variable) in enumerate(state):
        cuttable = isinstance(variable, nnx.Param | nnx.BatchStat | Frozen)
        axes.append([])
        for axis, length in enumerate(variable.shape):
            first = len(owners)
            owners += [(place, axis, i) for i in range(length)]
            axes[-1].append(
                np.arange(first, first + length) if cuttable else np.full(length, FIXED)
            )
    outputs = trace.run(jaxpr.jaxpr, [*axes, [np.zeros(n, int) for n in images.shape]])
    trace.fix(*(axis for found in outputs for axis in found))
    norms = {
        ".".join(map(str, path))
        for path, module in nnx.iter_modules(model)
        if isinstance(module, BatchNorm)
    }
    ranks = [len(variable.shape) for _, variable in state]
    return _collect(_components(trace.edges, len(owners)), np.array(owners), names, ranks, norms)


def _outputs(model, images):
    """Returns all that a model computes: its logits, and those of an auxiliary head."""
    if getattr(model, "auxiliary", None) is None:
        return model(images)
    features = model.features(images)
    *_, last = features.values()
    return model.head(model.pool(last)), model.auxiliary_logits(features)


def _components(edges, count):
    """Returns the number of the component of each node."""
    a, b = (np.concatenate(side) for side in zip(*edges, strict=True))
    known = sparse.coo_matrix((np.ones(len(a), bool), (a, b)), shape=(count, count))
    return sparse.csgraph.connected_components(known, directed=False)[1]


def _collect(labels, owners, names, ranks, norms):
    """Returns the groups: the components that are not fixed, by the axes that they lie on."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    found = {}
    for nodes in np.split(order, starts):
        if len(nodes) < 2 or labels[nodes[0]] == labels[FIXED]:
            continue
        channel = {}
        for place, axis, index in owners[nodes].tolist():
            channel.setdefault((place, axis), []).append(index)
        kernels = {key: key[1] == ranks[key[0]] - 1 for key in channel if ranks[key[0]] > 1}
        if set(kernels.values()) == {False, True}:  # it comes from somewhere and goes somewhere
            found.setdefault(
                tuple((key, len(indices)) for key, indices in sorted(channel.items())), []
            ).append(channel)
    groups = []
    for kind, members in found.items():
        keys = [key for key, _ in kind]
        parts = {
            (names[place], axis): np.array([m[place, axis] for m in members])
            for place, axis in keys
        }
        kernels = [(p, axis) for p, axis in keys if names[p].endswith("kernel")]
        filters = tuple((names[p], axis) for p, axis in kernels if axis == ranks[p] - 1)
        readers = tuple((names[p], axis) for p, axis in kernels if axis != ranks[p] - 1)
        scales = tuple(n for n, _ in parts if n.rpartition(".")[0] in norms and n.endswith("scale"))
        groups.append(Group(parts, filters, readers, scales))
    return groups
