"""What `vision.distributed.start` makes of each scheduler's environment.

The environments are those that Slurm 22.05 and Open MPI 4.1 set.
"""

import os
import re

import jax
import pytest

from vision import distributed
from vision.config import default
from vision.errors import UserError

URI = "1073676288.0;tcp://192.0.2.2:40577;tcp6://[fd00::2]:58337"


def slurm(process, tasks, nodes=1, local=0, gpus="", on_node=""):
    """The environment of a task of `srun`."""
    environment = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[3-4]" if nodes > 1 else "node3",
        "SLURM_STEP_NUM_NODES": nodes,
        "SLURM_STEP_NUM_TASKS": tasks,
        "SLURM_NTASKS": tasks,
        "SLURM_PROCID": process,
        "SLURM_LOCALID": local,
        "CUDA_VISIBLE_DEVICES": gpus,
        "SLURM_GPUS_ON_NODE": on_node,
    }
    return {name: str(value) for name, value in environment.items() if value != ""}


def openmpi(process, processes, local=0, here=1, gpus="", uri=URI):
    """The environment of a process of `mpirun`; version 5 sets no `uri`."""
    environment = {
        "OMPI_COMM_WORLD_RANK": process,
        "OMPI_COMM_WORLD_SIZE": processes,
        "OMPI_COMM_WORLD_LOCAL_RANK": local,
        "OMPI_COMM_WORLD_LOCAL_SIZE": here,
        "OMPI_MCA_orte_hnp_uri": uri,
        "CUDA_VISIBLE_DEVICES": gpus,
    }
    return {name: str(value) for name, value in environment.items() if value != ""}


@pytest.fixture
def joined(monkeypatch):
    """Calls `start` in an environment with flags; returns what it asks of `jax.distributed`, or
    None."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "JOB_COMPLETION", "CUDA_VISIBLE")):
            monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    monkeypatch.setattr(distributed.progress, "silence", lambda: None)  # for ever

    def call(environment, **flags):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        c = default().parallel
        c.update(flags)
        distributed.start(c)
        return calls[-1] if calls else None

    return call


def arguments(process, processes, devices=(), coordinator=None):
    return {
        "coordinator_address": coordinator,
        "num_processes": processes,
        "process_id": process,
        "local_device_ids": list(devices),
        "shutdown_timeout_seconds": distributed.SHUTDOWN_TIMEOUT,
    }


@pytest.mark.parametrize(
    "environment, expected",
    [
        pytest.param(
            slurm(1, 2, 2, gpus="0,1,2,3", on_node=4),
            arguments(1, 2),
            id="a task a node has all its GPUs",
        ),
        pytest.param(
            slurm(3, 4, 1, 3, "0,1,2,3", 4),
            arguments(3, 4, [3]),
            id="tasks that share GPUs take one each",
        ),
        pytest.param(
            slurm(3, 4, 1, 3, "3", 4), arguments(3, 4), id="--gpus-per-task=1 shows each its own"
        ),
        pytest.param(slurm(1, 2, 1, 1, "2,3", 4), arguments(1, 2), id="--gpus-per-task=2 too"),
        pytest.param(
            slurm(1, 2, 1, 1) | {"SLURM_NTASKS": "4"},
            arguments(1, 2, [1]),
            id="a step smaller than its job",
        ),
        pytest.param(openmpi(1, 2), arguments(1, 2), id="a process a host has all its GPUs"),
        pytest.param(
            openmpi(3, 4, 1, 2, "0,1"), arguments(3, 4, [1]), id="processes of a host take one each"
        ),
        pytest.param(openmpi(3, 4, 1, 2, "1"), arguments(3, 4), id="a wrapper shows each its own"),
        pytest.param(
            slurm(0, 3) | openmpi(1, 2), arguments(1, 2), id="mpirun's helpers are Slurm's tasks"
        ),
        pytest.param({}, None, id="alone"),
        pytest.param(slurm(0, 1, gpus="0,1", on_node=2), None, id="srun --pty bash"),
        pytest.param(
            {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
            None,
            id="the batch shell",
        ),
        pytest.param(openmpi(0, 1), None, id="mpirun -n 1"),
    ],
)
def test_what_a_scheduler_says(joined, environment, expected):
    assert joined(environment) == expected


@pytest.mark.parametrize("process", [0, 1])
def test_only_the_first_process_speaks_while_it_joins_the_others(joined, monkeypatch, process):
    events = []
    monkeypatch.setattr(distributed.progress, "silence", lambda: events.append("silence"))
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: events.append("initialize"))
    joined(slurm(process, 2))
    assert events == ["silence"] * process + ["initialize"]


def test_flags_say_it_all(joined):
    expected = arguments(1, 2, coordinator="node3:8476")
    assert joined({}, coordinator="node3:8476", processes=2, process=1) == expected


def test_flags_complete_what_a_scheduler_says(joined):
    flags = {"coordinator": "vision-workers-0-0.vision:8476", "processes": 2}
    assert joined({"JOB_COMPLETION_INDEX": "1"}, **flags) == arguments(
        1, 2, coordinator=flags["coordinator"]
    )


def test_open_mpi_5_with_the_address(joined):
    expected = arguments(1, 2, [1], "node3:8476")
    assert joined(openmpi(1, 2, 1, 2, uri=""), coordinator="node3:8476") == expected


def test_off_is_off(joined):
    assert joined(slurm(0, 2), distributed="off") is None


@pytest.mark.parametrize(
    "environment, flags, message",
    [
        (
            openmpi(0, 2, uri=""),
            {},
            r"^Open MPI started this process, but this mpirun does not report where process 0 is",
        ),
        (
            {"JOB_COMPLETION_INDEX": "0"},
            {},
            r"the package 'kubernetes' it is unknown.* add .*coordinator=HOST:PORT and .*=COUNT",
        ),
        (
            {},
            {"coordinator": "node3", "processes": 2, "process": 0},
            r"must be HOST:PORT of process 0, got 'node3'",
        ),
        (
            {},
            {"coordinator": "node3:1", "processes": 2},
            r"node3:1: set parallel.process, from 0, too",
        ),
        (
            {},
            {"coordinator": "node3:1", "processes": 2, "process": 2},
            r"process = 2 of parallel.processes = 2",
        ),
        ({}, {"processes": 2, "process": 0}, r"need parallel.coordinator=HOST:PORT"),
        ({}, {"distributed": "on"}, r"no scheduler started this process: set parallel.coordinator"),
        ({}, {"distributed": "of"}, r"did you mean 'off'"),
    ],
)
def test_what_is_missing_or_wrong(joined, monkeypatch, environment, flags, message):
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        joined(environment, **flags)


def test_what_jax_cannot_start_is_an_error_of_ours(joined, monkeypatch):
    def fail(**_):
        raise RuntimeError("Kubernetes API Error: 403 - Forbidden\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(
        UserError, match=r"process 0 of 2 \(Slurm\): Kubernetes API Error: 403 - Forbidden\.\nSet"
    ):
        joined(slurm(0, 2))


@pytest.mark.parametrize(
    "environment, address",
    [
        (slurm(1, 2, 2) | {"SLURM_NTASKS": "4"}, "node3:61447"),
        (slurm(0, 3) | openmpi(1, 2), r"192\.0\.2\.2:\d+"),
    ],
)
def test_jax_finds_process_0_and_leaves_the_rest_as_given(
    joined, monkeypatch, environment, address
):
    from jax._src.clusters import ClusterEnv

    given = joined(environment)
    names = ("coordinator_address", "num_processes", "process_id", "local_device_ids")
    detected = ClusterEnv.auto_detect_unset_distributed_params(
        *(given[name] for name in names), None, 300
    )
    assert re.fullmatch(address, detected[0])
    assert detected[1:] == tuple(given[name] for name in names[1:])
