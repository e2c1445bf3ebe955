"""Devices, the mesh and shardings. The only file that knows how many devices there are.

One mesh over all devices; the batch is sharded on `data`, everything else is replicated, and each step is
one `jax.jit` written as if for one device. BatchNorm statistics and the loss are therefore those of the global batch.

A run on another device count is the same run up to rounding: the first step's loss agrees to 1e-5 in float32. After
that BatchNorm amplifies rounding (two correct programs drift apart by 4e-3 in 5 steps of a ResNet); in float64 they
agree to 1e-10 over 20 steps.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vision.errors import UserError


def make_mesh(devices=0):
    """Returns a one-axis `Mesh` named "data" over the first `devices` devices; 0 = all.

    Raises:
        UserError: if there are fewer, or several hosts: the batches know how to share among those, the run directory
            and the signals do not yet.
    """
    if jax.process_count() > 1:
        raise UserError(f"jax.distributed runs {jax.process_count()} processes, but training takes one host so far")
    every = jax.devices()
    if devices > len(every):
        raise UserError(f"parallel.devices = {devices}, but there are {len(every)} {every[0].platform} devices")
    chosen = np.array(every[: devices or len(every)])
    return Mesh(chosen, ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh):
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh):
    """The sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_divisible(key, batch_size, mesh, accumulate=1):
    """Raises `UserError` unless every device gets the same number of images in each part of the batch."""
    parts = mesh.size * accumulate
    if batch_size % parts:
        near = max(1, round(batch_size / parts)) * parts
        over = f"{mesh.size} devices" + (f" times {accumulate} accumulated parts" if accumulate > 1 else "")
        raise UserError(f"{key} = {batch_size} does not divide over {over}: {near} does")


def this_host(count):
    """Returns the slice of a global batch of `count` examples that this host loads."""
    share = count // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def put_batch(batch, mesh):
    """Places this host's share of a batch, a dict of arrays with the batch axis first, on its devices."""
    sharding = by_example(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def put_replicated(tree, mesh):
    """Places every array of a tree whole on each device. The result shares no buffer with `tree`."""
    return jax.jit(lambda t: t, out_shardings=replicated(mesh))(tree)


def fetch(tree):
    """Copies a replicated tree to the host, as NumPy arrays; waits until it is computed."""
    return jax.device_get(tree)


def describe(mesh):
    """Says in words what the mesh is made of, for example "4 x NVIDIA H100"."""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}"


def is_main_process():
    return jax.process_index() == 0
