"""Devices, the mesh, shardings and several hosts.

The only file that knows how many devices and processes there are; `vision.distributed` joins the
processes.

One mesh of all devices of all hosts, with two axes: the batch is split along both, a copy of the
state (parameters, optimizer) only along "fsdp", so `parallel.fsdp` = 1 is plain data parallelism.
Each step is one `jax.jit`, written as if for one device. BatchNorm statistics and the loss are
therefore those of the global batch.

A run on another device count is the same run up to rounding: the first step's loss agrees to 1e-5
in float32. After that BatchNorm amplifies rounding (two correct programs drift apart by 4e-3 in 5
steps of a ResNet); in float64 they agree to 1e-10 over 20 steps.
"""

import contextlib
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vision.errors import UserError
from vision.support.devices import open_devices

AXES = ("data", "fsdp")
MIN_SPLIT_SIZE = 1024  # smallest array, in elements, that is worth splitting
MIN_COMPILE_TIME = 0.2  # seconds from which a compiled program is worth a file

_questions = itertools.count()  # how often `stop_is_agreed` was asked
_stop_is_agreed = False


def keep_programs(folder: str) -> None:
    """Keeps compiled programs in a folder, for this process and later ones.

    Call it before anything is compiled: JAX decides then, once for a process, whether it has one.

    Args:
        folder: config.compile_cache; "" keeps none.
    """
    if folder:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(folder).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_TIME)


def make_mesh(devices: int = 0, fsdp: int = 1) -> Mesh:
    """Returns the mesh of devices, with the axes `AXES`.

    Args:
        devices: number of this host's devices to use; 0 = all of all hosts, which several hosts
            must use.
        fsdp: devices that share a copy of the state; 0 = all. They are neighbors, so that a copy
            stays within a host if it can.

    Raises:
        UserError: if there are fewer devices, or `fsdp` does not divide them; see also
            `open_devices`.
    """
    available = sorted(open_devices(), key=lambda device: (device.process_index, device.id))
    count = len(available)
    if devices > count:
        platform = available[0].platform
        raise UserError(f"parallel.devices = {devices}, but there are {count} {platform} devices")
    if jax.process_count() > 1 and devices not in (0, count):
        raise UserError(
            f"parallel.devices must be 0 for {jax.process_count()} processes, which use all "
            f"{count} devices, got {devices}"
        )
    chosen = available[: devices or count]
    fsdp = fsdp or len(chosen)
    if len(chosen) % fsdp:
        raise UserError(f"parallel.fsdp = {fsdp} does not divide the {len(chosen)} devices")
    return Mesh(np.array(chosen).reshape(-1, fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array with a full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, stacked: bool = False) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch.

    With `stacked`, several batches, the second axis is the batch.
    """
    return NamedSharding(mesh, PartitionSpec(None, AXES) if stacked else PartitionSpec(AXES))


def state_sharding(tree: Any, mesh: Mesh) -> Any:
    """Returns the sharding of each array of a training state, a tree of arrays or of their shapes.

    An array is split along the longest axis that `fsdp` divides; small ones, and those without such
    an axis, are replicated. This is FSDP (Zhao et al. 2023, arXiv:2304.11277) between steps: within
    a step `gather` replicates the parameters, once for forward and backward, so what is saved there
    is the optimizer's share of the memory.
    """
    size = mesh.shape["fsdp"]

    def sharding_of(leaf):
        axes = [axis for axis, length in enumerate(leaf.shape) if length % size == 0]
        if size == 1 or not axes or np.prod(leaf.shape) < MIN_SPLIT_SIZE:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "fsdp"))

    return jax.tree.map(sharding_of, tree)


def gather(tree: Any, mesh: Mesh) -> Any:
    """Replicates each array of a state, inside a compiled step; its gradient comes back split.

    Without it XLA may compute with the pieces instead, which moves activations, not parameters.
    """
    if mesh.shape["fsdp"] == 1:
        return tree
    shardings = state_sharding(tree, mesh)

    @jax.custom_vjp
    def replicate(tree):
        return jax.lax.with_sharding_constraint(tree, replicated(mesh))

    replicate.defvjp(
        lambda tree: (replicate(tree), None),
        lambda _, gradient: (jax.lax.with_sharding_constraint(gradient, shardings),),
    )
    return replicate(tree)


def check_divisible(key: str, batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises `UserError` unless each device gets equally many images in each part of the batch.

    Args:
        key: name of the batch size in the config, for the message.
        batch_size: images per step.
        mesh: the devices.
        accumulate: parts of the batch, computed one after the other.
    """
    parts = mesh.size * accumulate
    if batch_size % parts:
        nearest = max(1, round(batch_size / parts)) * parts
        divisors = f"{mesh.size} devices"
        if accumulate > 1:
            divisors += f" times {accumulate} accumulated parts"
        raise UserError(f"{key} = {batch_size} does not divide over {divisors}: {nearest} does")


def this_host(count: int) -> slice:
    """Returns the slice of a global batch of `count` examples that this host loads."""
    share = count // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def put_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, stacked: bool = False
) -> dict[str, jax.Array]:
    """Places this host's share of a batch on its devices.

    Args:
        batch: arrays with the batch axis first.
        mesh: the devices.
        stacked: whether there are several batches, along an axis before that of the batch.
    """
    sharding = batch_sharding(mesh, stacked)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def abstract_batch(
    specs: Mapping[str, tuple[tuple[int, ...], Any]], mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns a global batch as abstract arrays with the sharding that `put_batch` gives them.

    Args:
        specs: {name: (shape, dtype)}.
        mesh: the devices.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in specs.items()
    }


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """Places a full copy of each NumPy array of a tree on each device."""
    sharding = replicated(mesh)

    def put(array):
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, tree)


def fetch(tree: Any) -> Any:
    """Copies a replicated tree to the host, as NumPy arrays; waits until it is computed."""
    return jax.device_get(tree)


def bytes_on_one_device(tree: Any) -> int:
    """Returns the bytes of a tree of arrays on this host's first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def describe(mesh: Mesh) -> str:
    """Returns the mesh in words, for example "4 x NVIDIA H100"."""
    text = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
    if jax.process_count() > 1:
        text += f" in {jax.process_count()} processes"
    if mesh.shape["fsdp"] > 1:
        text += f", state cut in {mesh.shape['fsdp']}"
    return text


def process_index() -> int:
    """Returns the number of this process in the run, from 0."""
    return jax.process_index()


def process_count() -> int:
    """Returns how many processes the run has."""
    return jax.process_count()


def is_main_process() -> bool:
    """Returns whether this is process 0, which writes the files."""
    return process_index() == 0


def is_single_process() -> bool:
    """Returns whether this process is the entire run."""
    return jax.process_count() == 1


def from_main_process(text: str) -> str:
    """Returns process 0's text on every process."""
    if is_single_process():
        return text
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text.encode()))))
    buffer = np.frombuffer(text.encode()[:length].ljust(length), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(buffer))
    return received.astype(np.uint8).tobytes().decode()


def on_main_process(function: Callable[[], object]) -> None:
    """Calls `function()` on process 0 only, before any other process goes on.

    Its `UserError` is raised on all processes.
    """
    message = ""
    try:
        if is_main_process():
            function()
    except UserError as error:
        message = str(error)
        if is_single_process():
            raise
    message = from_main_process(message)
    if message:
        raise UserError(message)


def all_agree(value: bool) -> bool:
    """Returns whether `value` is true on every process."""
    if is_single_process():
        return bool(value)
    return bool(multihost_utils.process_allgather(np.array(bool(value))).all())


def stop_is_agreed(received: bool) -> bool:
    """Returns whether to stop now.

    A single process stops at once, several stop when all have asked equally often: each may receive
    its signal (SIGTERM, which JAX's runtime notices) at another time, but all must leave at the
    same point. Once it is time to stop, it remains so.

    Args:
        received: whether this process has received a signal.
    """
    global _stop_is_agreed
    if is_single_process():
        return received
    if not _stop_is_agreed:
        _stop_is_agreed = multihost_utils.reached_preemption_sync_point(next(_questions))
    return _stop_is_agreed


@contextlib.contextmanager
def out_of_memory(advice: Callable[[], str]) -> Iterator[None]:
    """Turns running out of device memory into the `UserError` "out of memory " + `advice()`."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        signs = ("RESOURCE_EXHAUSTED", "Out of memory")
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in signs):
            raise UserError(f"out of memory {advice()}") from error
        raise


@functools.cache
def memory_limit() -> int | None:
    """Returns the bytes that programs may use on one device, None if the platform hides it."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
