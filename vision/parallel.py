"""Devices, the mesh, shardings and several hosts. The only file that knows how many devices and
processes there are.

One mesh of all devices of all hosts, with two axes: the batch is cut along both, a copy of the
state (parameters, optimizer) along "fsdp" alone, so `parallel.fsdp` = 1 is plain data parallelism.
Each step is one `jax.jit` written as if for one device. BatchNorm statistics and the loss are
therefore those of the global batch.

A run on another device count is the same run up to rounding: the first step's loss agrees to 1e-5
in float32. After that BatchNorm amplifies rounding (two correct programs drift apart by 4e-3 in 5
steps of a ResNet); in float64 they agree to 1e-10 over 20 steps.
"""

import contextlib
import functools
import importlib.util
import os
import re
import sys
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vision.errors import UserError, check_choice

AXES = ("data", "fsdp")
SMALL = 1024  # arrays below so many elements are not worth cutting
SCHEDULERS = {  # a variable that only its processes have; this process's number; how many there are
    # may run within Slurm: first
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "Slurm": ("SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    # an indexed Job does not say how many
    "Kubernetes": ("JOB_COMPLETION_INDEX", "JOB_COMPLETION_INDEX", ""),
}
PATIENCE = 30  # seconds that may pass in silence while the other processes start
# seconds that a process which ends, by an error too, waits for the others to end; JAX's own are 300
FAREWELL = 60


def start(c):
    """Joins the other processes of this run through `jax.distributed`, where `config.parallel` or a
    scheduler says so.

    Call it before anything asks JAX for its devices. If the others do not come within five minutes,
    JAX ends the process (SIGABRT).

    Raises:
        UserError: a setting that is missing or wrong.
    """
    check_choice("parallel.distributed", c.distributed, ("auto", "on", "off"))
    scheduler, process, processes = _scheduler()
    process = c.process if c.process >= 0 else process
    processes = c.processes or processes
    alone = processes == 1 or (not scheduler and not c.coordinator)
    if (
        not scheduler
        and not c.coordinator
        and c.distributed != "off"
        and (c.processes > 1 or c.process >= 0)
    ):
        raise UserError(
            "parallel.processes and parallel.process need parallel.coordinator=HOST:PORT of process 0"
        )
    if (
        c.distributed == "off"
        or (c.distributed == "auto" and alone)
        or jax.distributed.is_initialized()
    ):
        return
    _check_address(c.coordinator, scheduler, process, processes)
    where = f"process {process} of {processes or 'several'} ({scheduler or 'no scheduler'})"
    notice = f"{where} waits for the others at {c.coordinator or 'the address that JAX found'} ..."
    waiting = threading.Timer(PATIENCE, print, (notice,), {"file": sys.stderr, "flush": True})
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            coordinator_address=c.coordinator or None,
            num_processes=processes,
            process_id=process,
            local_device_ids=_local_device_ids(scheduler),
            shutdown_timeout_seconds=FAREWELL,
        )
    except Exception as error:  # JAX, gRPC and the Kubernetes client raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"cannot start {where}: {reason}.\n"
            "Set parallel.coordinator=HOST:PORT of process 0 and parallel.processes, or parallel.distributed=off"
        ) from error
    finally:
        waiting.cancel()


def _scheduler():
    """Returns (name, process, processes) as the scheduler says; None for what it does not."""
    for name, (mark, process, processes) in SCHEDULERS.items():
        if mark in os.environ:
            count = os.environ.get(processes)
            return name, int(os.environ[process]), int(count) if count else None
    return None, None, None


def _check_address(coordinator, scheduler, process, processes):
    """Raises `UserError` unless `jax.distributed` can know where process 0 is, and which process
    this is."""
    if coordinator and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"parallel.coordinator = {coordinator!r}: it is HOST:PORT of process 0")
    if not coordinator and not scheduler:
        raise UserError(
            "parallel.distributed = on, but no scheduler started this process: set parallel.coordinator=HOST:PORT of "
            "process 0, parallel.processes and parallel.process"
        )
    if coordinator and (process is None or not processes):
        missing = [] if processes else ["parallel.processes"]
        missing += ["parallel.process, from 0,"] if process is None else []
        raise UserError(f"parallel.coordinator = {coordinator}: set {' and '.join(missing)} too")
    if coordinator and process >= processes:
        raise UserError(
            f"parallel.process = {process} of parallel.processes = {processes}: count from 0"
        )
    unknown = {
        "Open MPI": "OMPI_MCA_orte_hnp_uri" not in os.environ,  # set by mpirun 4, no longer by 5
        "Kubernetes": not importlib.util.find_spec("kubernetes"),
    }
    if not coordinator and unknown.get(scheduler):
        why = {
            "Open MPI": "this mpirun does not say",
            "Kubernetes": "without the package 'kubernetes' nobody can say",
        }
        count = "" if processes else " and --config.parallel.processes=COUNT"
        raise UserError(
            f"{scheduler} started this process, but {why[scheduler]} where process 0 is: "
            f"add --config.parallel.coordinator=HOST:PORT{count}.\n"
            "If it is a run of its own, add --config.parallel.distributed=off"
        )


def _local_device_ids(scheduler):
    """Returns which of the GPUs that this process sees it takes, as `jax.distributed` wants it; []
    = all of them.

    Processes of one host that see the same GPUs take one each. JAX would do so for every process of
    Slurm and Open MPI: one process a host would leave all GPUs but the first idle, and where `srun
    --gpus-per-task` shows each process its own GPUs alone, the second would look for one that it
    does not see.
    """
    env = os.environ
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if scheduler == "Slurm":
        together = int(env["SLURM_STEP_NUM_TASKS"]) > int(env.get("SLURM_STEP_NUM_NODES", 1))
        number = env.get("SLURM_LOCALID", 0)
        there = int(env.get("SLURM_GPUS_ON_NODE", 0))
    elif scheduler == "Open MPI":
        together = int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1)) > 1
        number = env.get("OMPI_COMM_WORLD_LOCAL_RANK", 0)
        there = int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
    else:
        together = False
    if not together or (shown and len(shown.split(",")) < there):
        return []
    return [int(number)]


def make_mesh(devices=0, fsdp=1):
    """Returns the `Mesh`.

    Args:
        devices: how many of this host's devices; 0 = all of all hosts, which several hosts must
            use.
        fsdp: devices that share a copy of the state; 0 = all. Neighbors, so that a copy stays
            within a host if it can.

    Raises:
        UserError: if there are fewer devices, or `fsdp` does not divide them.
    """
    every = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    if devices > len(every):
        raise UserError(
            f"parallel.devices = {devices}, but there are {len(every)} {every[0].platform} devices"
        )
    if jax.process_count() > 1 and devices not in (0, len(every)):
        raise UserError(
            f"parallel.devices = {devices}: {jax.process_count()} processes use all {len(every)} devices"
        )
    chosen = every[: devices or len(every)]
    fsdp = fsdp or len(chosen)
    if len(chosen) % fsdp:
        raise UserError(f"parallel.fsdp = {fsdp} does not divide the {len(chosen)} devices")
    return Mesh(np.array(chosen).reshape(-1, fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh):
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh, stacked=False):
    """The sharding of arrays whose first axis is the batch, or the second where several batches are
    `stacked`."""
    return NamedSharding(mesh, PartitionSpec(None, AXES) if stacked else PartitionSpec(AXES))


def state_sharding(tree, mesh):
    """Returns the sharding of each array of a training state, a tree of arrays or of their shapes.

    An array is cut along the longest axis that `fsdp` divides; small ones, and those with no such
    axis, lie whole on each device. This is FSDP (Zhao et al. 2023, arXiv:2304.11277) between steps:
    within a step `gather` makes the parameters whole, once for forward and backward, so the
    optimizer's share of the memory is what is saved there.
    """
    size = mesh.shape["fsdp"]

    def one(leaf):
        axes = [axis for axis, length in enumerate(leaf.shape) if length % size == 0]
        if size == 1 or not axes or np.prod(leaf.shape) < SMALL:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "fsdp"))

    return jax.tree.map(one, tree)


def gather(tree, mesh):
    """Makes each array of a state whole on every device, inside a compiled step; its gradient comes
    back cut.

    Without it XLA may compute with the pieces instead, which moves activations, not parameters.
    """
    if mesh.shape["fsdp"] == 1:
        return tree
    shardings = state_sharding(tree, mesh)

    @jax.custom_vjp
    def whole(tree):
        return jax.lax.with_sharding_constraint(tree, replicated(mesh))

    whole.defvjp(
        lambda tree: (whole(tree), None),
        lambda _, gradient: (jax.lax.with_sharding_constraint(gradient, shardings),),
    )
    return whole(tree)


def check_divisible(key, batch_size, mesh, accumulate=1):
    """Raises `UserError` unless every device gets the same number of images in each part of the
    batch."""
    parts = mesh.size * accumulate
    if batch_size % parts:
        near = max(1, round(batch_size / parts)) * parts
        over = f"{mesh.size} devices" + (
            f" times {accumulate} accumulated parts" if accumulate > 1 else ""
        )
        raise UserError(f"{key} = {batch_size} does not divide over {over}: {near} does")


def this_host(count):
    """Returns the slice of a global batch of `count` examples that this host loads."""
    share = count // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def put_batch(batch, mesh, stacked=False):
    """Places this host's share of a batch, a dict of arrays with the batch axis first, on its
    devices.

    With `stacked`, several batches: their axis is before the batch's.
    """
    sharding = by_example(mesh, stacked)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def abstract_batch(known, mesh):
    """Returns {name: (shape, dtype)} of a global batch as abstract arrays that lie as
    `put_batch`'s."""
    return {
        k: jax.ShapeDtypeStruct(shape, dtype, sharding=by_example(mesh))
        for k, (shape, dtype) in known.items()
    }


def put_replicated(tree, mesh):
    """Places every NumPy array of a tree whole on each device."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index, x=x: x[index]), tree
    )


def fetch(tree):
    """Copies a replicated tree to the host, as NumPy arrays; waits until it is computed."""
    return jax.device_get(tree)


def bytes_on_one_device(tree):
    """Returns how many bytes of a tree of arrays lie on this host's first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def describe(mesh):
    """Says in words what the mesh is made of, for example "4 x NVIDIA H100"."""
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    cut = f", state cut in {mesh.shape['fsdp']}" if mesh.shape["fsdp"] > 1 else ""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}{processes}{cut}"


def process_index():
    """Which of the run's processes this is, from 0."""
    return jax.process_index()


def is_main_process():
    return process_index() == 0


def is_alone():
    """True where this process is the whole run."""
    return jax.process_count() == 1


def from_main_process(text):
    """Returns process 0's text on every process."""
    if is_alone():
        return text
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text.encode()))))
    buffer = np.frombuffer(text.encode()[:length].ljust(length), np.uint8)
    return (
        np.asarray(multihost_utils.broadcast_one_to_all(buffer)).astype(np.uint8).tobytes().decode()
    )


def on_main_process(function):
    """Calls `function()` on process 0 alone, before any other goes on. Its `UserError` is raised on
    all."""
    message = ""
    try:
        if is_main_process():
            function()
    except UserError as error:
        message = str(error)
        if is_alone():
            raise
    message = from_main_process(message)
    if message:
        raise UserError(message)


def all_agree(value):
    """Returns whether `value` is true on every process."""
    return (
        bool(value)
        if is_alone()
        else bool(multihost_utils.process_allgather(np.array(bool(value))).all())
    )


def stop_is_agreed(received, step):
    """Returns whether to stop after `step`: at once where this process is alone, else when all have
    reached it.

    Of several processes each can be told to stop at another time (SIGTERM, of which JAX's runtime
    takes notice), but all must leave at the same step.
    """
    return received if is_alone() else multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def out_of_memory(advice):
    """Turns running out of device memory into the `UserError` "out of memory " + `advice()`."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if (
            isinstance(error, MemoryError)
            or "RESOURCE_EXHAUSTED" in str(error)
            or "Out of memory" in str(error)
        ):
            raise UserError(f"out of memory {advice()}") from error
        raise


@functools.cache
def memory_limit():
    """Returns the bytes that programs may use on one device, or None where the platform does not
    say."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
