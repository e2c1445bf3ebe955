"""The launchers' own rules; tests/slow/test_launch.py runs them, tests/test_distributed.py has what
the processes make of a scheduler's environment."""

import os
import pathlib
import re
import stat
import subprocess

import pytest
import yaml

from vision import main
from vision.config.flags import parse

REPOSITORY = pathlib.Path(__file__).parents[2]
LAUNCH = REPOSITORY / "scripts" / "launch"
SCRIPTS = ("local", "pod", "search", "search.sbatch", "slurm.sbatch")


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
