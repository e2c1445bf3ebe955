"""The launchers: what `vision.distributed.start` makes of each scheduler's environment, and the
scripts' own rules.

The environments are those that Slurm 22.05 and Open MPI 4.1 set. tests/slow/test_launch.py runs the
launchers.
"""

import os
import pathlib
import re
import stat
import subprocess

import jax
import pytest
import yaml

from vision import distributed, main
from vision.config import default
from vision.config.flags import parse
from vision.errors import UserError

REPOSITORY = pathlib.Path(__file__).parents[2]
LAUNCH = REPOSITORY / "scripts" / "launch"
SCRIPTS = ("local", "pod", "search", "search.sbatch", "slurm.sbatch")
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
            r"'kubernetes' is not installed.* add .*coordinator=HOST:PORT and .*=COUNT",
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


# The scripts


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse_and_can_be_run(name):
    done = run("bash", "-n", LAUNCH / name)
    assert (done.returncode, done.stderr) == (0, "")
    assert (LAUNCH / name).stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize(
    "arguments", [(), ("2",), ("0", "configs/digits.py"), ("two", "configs/digits.py")]
)
def test_local_shows_how_it_is_used(arguments):
    done = run(LAUNCH / "local", *arguments)
    assert done.returncode == 2
    assert (
        "./scripts/launch/local 2 configs/digits.py" in done.stderr
        and "set -euo" not in done.stderr
    )


def test_local_needs_a_gpu_for_each_process():
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"} | {
        "CUDA_VISIBLE_DEVICES": "4,5"
    }
    done = run(LAUNCH / "local", "3", "configs/digits.py", env=environment)
    assert done.returncode == 2
    assert (
        done.stderr == "error: 3 processes for 2 GPUs: start at most 2, or set JAX_PLATFORMS=cpu\n"
    )


@pytest.fixture
def stand_ins(tmp_path):
    """Writes programs into a folder that comes first on the PATH; returns the environment."""

    def write(**programs):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in programs.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)
        return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}

    return write


@pytest.mark.parametrize("flag", [("--workdir", "runs/a b"), ("--workdir=runs/a b",)])
@pytest.mark.parametrize(
    "train, code, queued",
    [("touch 'runs/a b/result.json'", 0, False), ("true", 0, True), ("exit 2", 2, False)],
    ids=["finished", "interrupted", "failed"],
)
def test_slurm_queues_again_what_was_interrupted(tmp_path, stand_ins, flag, train, code, queued):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "runs" / "a b").mkdir(parents=True)
    environment = stand_ins(
        srun='while [[ $1 == -* ]]; do shift; done; "$@"', scontrol="echo called scontrol $*"
    )
    script = tmp_path / "scripts" / "train"
    script.write_text(f"#!/bin/bash\n[[ $1 == --help ]] && exit\n{train}\n")
    script.chmod(0o755)
    done = run(
        LAUNCH / "slurm.sbatch",
        "configs/x.py",
        *flag,
        cwd=tmp_path,
        env=environment | {"SLURM_JOB_ID": "7"},
    )
    assert done.returncode == code, done.stderr
    assert ("called scontrol requeue 7" in done.stdout) == queued


def test_slurm_says_what_is_missing(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "SLURM_JOB_ID"}
    inside = environment | {"SLURM_JOB_ID": "7"}
    for arguments, where, env, message in [
        (
            ("c.py", "--workdir", "x"),
            REPOSITORY,
            environment,
            "sbatch scripts/launch/slurm.sbatch CONFIG",
        ),
        (("c.py", "--workdir", "x"), tmp_path, inside, f"no scripts/train in {tmp_path}"),
        (("c.py",), REPOSITORY, inside, "give --workdir DIR"),
    ]:
        done = run(LAUNCH / "slurm.sbatch", *arguments, cwd=where, env=env)
        assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize(
    "train, index, code",
    [
        ("touch run/result.json", 0, 0),
        ("true", 0, 75),  # interrupted: process 0 tells
        ("true", 1, 0),
        ("exit 2", 0, 2),
        ("kill -ABRT $$", 1, 134),
        (
            "trap 'touch told' TERM; kill -TERM $PPID; until [[ -e told ]]; do sleep 0.01; done",
            0,
            75,
        ),
    ],
)
def test_pod_says_whether_the_run_has_finished(tmp_path, stand_ins, train, index, code):
    (tmp_path / "run").mkdir()
    environment = stand_ins(python=train) | {"JOB_COMPLETION_INDEX": str(index)}
    done = run(
        LAUNCH / "pod", "--config", "c.py", "--workdir", "run", cwd=tmp_path, env=environment
    )
    assert done.returncode == code, done.stderr


def test_pod_needs_a_workdir():
    done = run(LAUNCH / "pod", "--config", "c.py")
    assert done.returncode == 2 and "give --workdir DIR" in done.stderr


# Kubernetes


@pytest.fixture(scope="module")
def manifests():
    documents = list(yaml.safe_load_all((LAUNCH / "jobset.yaml").read_text()))
    return {manifest["kind"]: manifest for manifest in documents}


def test_jobset_names_itself_where_its_flags_do(manifests):
    jobset = manifests["JobSet"]
    (workers,) = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    config, values = parse(container["args"], "", main.define_flags)
    name = jobset["metadata"]["name"]
    (port,) = [p["containerPort"] for p in container["ports"]]
    assert config.parallel.coordinator == f"{name}-{workers['name']}-0-0.{name}:{port}"
    assert config.parallel.processes == job["completions"] == job["parallelism"]
    assert (
        jobset["spec"]["network"]["enableDNSHostnames"] is True
        and job["completionMode"] == "Indexed"
    )
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    volumes = {v["name"]: v for v in job["template"]["spec"]["volumes"]}
    assert mounts.keys() == volumes.keys() and mounts["shm"] == "/dev/shm"
    claim = volumes["runs"]["persistentVolumeClaim"]["claimName"]
    assert claim == manifests["PersistentVolumeClaim"]["metadata"]["name"]
    for folder in (values.workdir, config.compile_cache):
        assert folder.startswith(mounts["runs"] + "/")


def test_jobset_starts_again_after_all_but_a_mistake(manifests):
    jobset = manifests["JobSet"]
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert job["backoffLimit"] == 0 and job["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2],
    }
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0 and policy["rules"][0]["action"] == "FailJobSet"
    # else the controller refuses it
    assert re.fullmatch(r"[A-Za-z]([\w,:]*\w)?", policy["rules"][0]["name"])


def test_the_image_has_what_the_jobset_starts(manifests):
    text = (LAUNCH / "Dockerfile").read_text()
    job = manifests["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (directory,) = re.findall(r"^WORKDIR (.*)", text, re.M)
    copied = [line.split()[1:] for line in text.splitlines() if line.startswith("COPY ")]
    sources = {source for *sources, _ in copied for source in sources}
    assert all((REPOSITORY / source).exists() for source in sources)
    assert pathlib.Path(container["command"][0]).relative_to(directory).as_posix() in sources
    assert f"-t {container['image']} ." in text
