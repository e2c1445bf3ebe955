"""Joins the processes of a run: those of Slurm, Open MPI or Kubernetes, or started by hand."""

import importlib.util
import os
import re
import sys
import threading

import jax
from ml_collections import ConfigDict

from vision.errors import UserError, brief, check_choice
from vision.support import progress

# For each scheduler the environment variables with: a value that only its processes have, the
# number of this process, the number of processes.
SCHEDULERS = {
    # first, since it may run within Slurm
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "Slurm": ("SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    # an indexed Job does not know its number of processes
    "Kubernetes": ("JOB_COMPLETION_INDEX", "JOB_COMPLETION_INDEX", ""),
}
NOTICE_AFTER = 30  # seconds of waiting for the other processes before a notice is printed
# seconds that a process which ends, also by an error, waits for the others; JAX's default is 300
SHUTDOWN_TIMEOUT = 60


def start(c: ConfigDict) -> None:
    """Joins the other processes of this run through `jax.distributed`, if there are any.

    `config.parallel` or a scheduler says so. Call it before anything asks JAX for its devices. If
    the others do not come within five minutes, JAX ends the process (SIGABRT).

    Args:
        c: `config.parallel`.

    Raises:
        UserError: if a setting is missing or wrong.
    """
    check_choice("parallel.distributed", c.distributed, ("auto", "on", "off"))
    scheduler, process, processes = _scheduler()
    process = c.process if c.process >= 0 else process
    processes = c.processes or processes
    if c.distributed == "off":
        return
    if not scheduler and not c.coordinator:
        if c.processes > 1 or c.process >= 0:
            raise UserError(
                "parallel.processes and parallel.process need "
                "parallel.coordinator=HOST:PORT of process 0"
            )
        if c.distributed == "auto":
            return
    single = processes == 1
    if (c.distributed == "auto" and single) or jax.distributed.is_initialized():
        return
    _check_address(c.coordinator, scheduler, process, processes)
    _join(c.coordinator, scheduler, process, processes)


def _scheduler():
    """Returns (name, process, processes) from the scheduler's variables; None for what it lacks."""
    for name, (mark, process, processes) in SCHEDULERS.items():
        if mark in os.environ:
            count = os.environ.get(processes)
            return name, int(os.environ[process]), int(count) if count else None
    return None, None, None


def _join(coordinator, scheduler, process, processes):
    """Calls `jax.distributed.initialize`, with a notice on stderr if it takes long."""
    name = f"process {process} of {processes or 'several'} ({scheduler or 'no scheduler'})"
    notice = f"{name} waits for the others at {coordinator or 'the address that JAX found'} ..."
    timer = threading.Timer(NOTICE_AFTER, print, (notice,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    if process:
        progress.silence()  # the first process speaks for all
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator or None,
            num_processes=processes,
            process_id=process,
            local_device_ids=_local_device_ids(scheduler),
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except Exception as error:  # JAX, gRPC and the Kubernetes client raise many kinds
        raise UserError(
            f"cannot start {name}: {brief(error)}.\n"
            "Set parallel.coordinator=HOST:PORT of process 0 and parallel.processes, "
            "or parallel.distributed=off"
        ) from error
    finally:
        timer.cancel()
    if process is None and jax.process_index():
        progress.silence()


def _check_address(coordinator, scheduler, process, processes):
    """Raises `UserError` unless `jax.distributed` can know this process's number and process 0."""
    if not coordinator:
        _check_scheduler(scheduler, processes)
        return
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"parallel.coordinator must be HOST:PORT of process 0, got {coordinator!r}")
    if process is None or not processes:
        missing = [] if processes else ["parallel.processes"]
        missing += ["parallel.process, from 0,"] if process is None else []
        raise UserError(f"parallel.coordinator = {coordinator}: set {' and '.join(missing)} too")
    if process >= processes:
        raise UserError(
            f"parallel.process = {process} of parallel.processes = {processes}: count from 0"
        )


def _check_scheduler(scheduler, processes):
    """Raises `UserError` unless JAX can find the address of process 0 through the scheduler."""
    if not scheduler:
        raise UserError(
            "parallel.distributed = on, but no scheduler started this process: set "
            "parallel.coordinator=HOST:PORT of process 0, parallel.processes and parallel.process"
        )
    reasons = {}
    if "OMPI_MCA_orte_hnp_uri" not in os.environ:  # set by mpirun 4, no longer by 5
        reasons["Open MPI"] = "this mpirun does not report"
    if not importlib.util.find_spec("kubernetes"):
        reasons["Kubernetes"] = "without the package 'kubernetes' it is unknown"
    if scheduler in reasons:
        count = "" if processes else " and --config.parallel.processes=COUNT"
        raise UserError(
            f"{scheduler} started this process, but {reasons[scheduler]} where process 0 is: "
            f"add --config.parallel.coordinator=HOST:PORT{count}.\n"
            "If this process is a run of its own, add --config.parallel.distributed=off"
        )


def _local_device_ids(scheduler):
    """Returns which of its visible GPUs this process takes, for `jax.distributed`; [] = all.

    Processes of one host that see the same GPUs take one each. JAX would do so for every process of
    Slurm and Open MPI: a single process per host would leave all GPUs but the first idle, and if
    `srun --gpus-per-task` shows each process only its own GPUs, the second process would look for
    one that it does not see.
    """
    env = os.environ
    visible = env.get("CUDA_VISIBLE_DEVICES", "")
    if scheduler == "Slurm":
        shared = int(env["SLURM_STEP_NUM_TASKS"]) > int(env.get("SLURM_STEP_NUM_NODES", 1))
        local_rank = env.get("SLURM_LOCALID", 0)
        host_gpus = int(env.get("SLURM_GPUS_ON_NODE", 0))
    elif scheduler == "Open MPI":
        shared = int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1)) > 1
        local_rank = env.get("OMPI_COMM_WORLD_LOCAL_RANK", 0)
        host_gpus = int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
    else:
        return []
    if not shared or (visible and len(visible.split(",")) < host_gpus):
        return []
    return [int(local_rank)]
