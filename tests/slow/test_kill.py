"""Runs that are really killed: with -9 at moments that nobody chose, or by a signal to the whole
process group."""

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

REPOSITORY = Path(__file__).parents[2]
STEPS = 60
CONFIG = """
from vision.config import default

def get_config(kind):
    c = default()
    c.train.steps = 60
    c.train.batch_size = 16
    c.train.eval_every = 20
    c.checkpoint.every = 3
    c.log.every = 2
    c.augment.affine = True
    c.augment.mixup = 0.4
    c.optimizer.ema = 0.9
    if kind == "resident":
        c.data.source = "digits"
        c.data.limit = 100
        c.model.name = "tests.support.tiny_resnet"
        c.optimizer.name = "sgd"
        c.optimizer.learning_rate = 0.05
    else:
        c.data.source = "folder:FOLDER"
        c.data.resident_gib = 0.0
        c.data.workers = 2
        c.data.image_size = 16
        c.data.random_crop_area = (0.3, 1.0)
        c.model.name = "vit"
        c.model.variant = "mu/4"
        c.model.dropout = 0.2
    return c
"""


@pytest.fixture(scope="module")
def steel(tmp_path_factory):
    """150 photographs of six kinds of defects in steel."""
    archive = REPOSITORY.parent / "shared" / "data" / "neu_det.tar"
    if not archive.is_file():
        pytest.skip(f"no real data at {archive}")
    root = tmp_path_factory.mktemp("steel")
    with tarfile.open(archive) as tar:
        images = [m for m in tar.getmembers() if m.name.lower().endswith((".jpg", ".png", ".bmp"))]
        for member in images[:: len(images) // 150]:
            name = Path(member.name).name
            (root / name.rsplit("_", 1)[0]).mkdir(exist_ok=True)
            (root / name.rsplit("_", 1)[0] / name).write_bytes(tar.extractfile(member).read())
    return root


@pytest.fixture(scope="module")
def command(tmp_path_factory, steel):
    """Maps (kind, workdir) to the command line of a run."""
    file = tmp_path_factory.mktemp("config") / "killed.py"
    file.write_text(CONFIG.replace("FOLDER", str(steel)))

    def get(kind, workdir):
        return [
            sys.executable,
            "-m",
            "vision.main",
            "--config",
            f"{file}:{kind}",
            "--workdir",
            str(workdir),
        ]

    return get


def start(command):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # one device
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )


def finish(command):
    process = start(command)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def checkpoints(workdir):
    folder = workdir / "checkpoints"
    return {int(p.name) for p in folder.iterdir() if p.name.isdigit()} if folder.is_dir() else set()


def wait_for_a_new_checkpoint(process, workdir):
    """Until the process has saved one of its own."""
    before = checkpoints(workdir)
    ends = time.monotonic() + 200
    while not checkpoints(workdir) - before:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.01)


def arrays(workdir):
    with pytest.warns(UserWarning, match="[Ss]harding"):
        tree = ocp.PyTreeCheckpointer().restore(workdir / "checkpoints" / str(STEPS) / "state")
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def numbers(workdir):
    """[(step, {name: value})] of metrics.jsonl, without speeds."""
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "train/images_per_second"} for line in logged]


def events(workdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(
        str(workdir / "tensorboard"), size_guidance={"scalars": 0}
    ).Reload()
    return [(e.step, e.value) for e in accumulator.Scalars("val/loss")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, command):
    """Maps a kind to the directory of its run without an interruption."""
    runs = {}

    def get(kind):
        if kind not in runs:
            runs[kind] = tmp_path_factory.mktemp(kind) / "run"
            finish(command(kind, runs[kind]))
        return runs[kind]

    return get


def assert_same_run(ours, theirs, lines=True):
    a = arrays(ours)
    b = arrays(theirs)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes(), name
    if lines:
        assert numbers(ours) == numbers(theirs)
    assert events(ours) == events(theirs)
    results = [json.loads((workdir / "result.json").read_text()) for workdir in (ours, theirs)]
    for key in ("ended", "steps", "best_step", "loss", "confusion"):
        assert results[0][key] == results[1][key]


@pytest.mark.parametrize("kind", ["resident", "loaded"])
def test_killed_three_times(tmp_path, command, uninterrupted, kind):
    """SIGKILL to the process and its workers, three times at random moments; then it is let
    finish."""
    workdir = tmp_path / "run"
    seed = random.randrange(10**6)
    print(f"random.Random({seed})")
    rng = random.Random(seed)
    killed_at = []
    for _ in range(3):
        process = start(command(kind, workdir))
        wait_for_a_new_checkpoint(process, workdir)
        time.sleep(rng.uniform(0, 0.6))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        killed_at.append(max(checkpoints(workdir)))
        if killed_at[-1] == STEPS:
            break
    print(f"newest checkpoints at the kills: {killed_at}")
    assert killed_at[0] < STEPS
    _, err = finish(command(kind, workdir))
    assert "resumed" in err and "damaged" not in err
    assert_same_run(workdir, uninterrupted(kind))


@pytest.mark.parametrize("kind", ["resident", "loaded"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("everyone", [True, False])
def test_signal_to_the_process_or_its_group(
    tmp_path, command, uninterrupted, kind, number, everyone
):
    """A scheduler signals the process, Ctrl-C and Slurm its workers too: either way it saves and
    exits with 0."""
    workdir = tmp_path / "run"
    process = start(command(kind, workdir))
    wait_for_a_new_checkpoint(process, workdir)
    (os.killpg if everyone else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "saved; the same command" in out and "Traceback" not in err
    step = max(checkpoints(workdir))
    assert f"interrupted at step {step}: saved" in out
    _, err = finish(command(kind, workdir))
    assert f"at step {step}/{STEPS}" in err
    assert_same_run(workdir, uninterrupted(kind), lines=False)


def test_workers_end_with_a_killed_trainer(tmp_path, command):
    """The kernel's out-of-memory killer takes the trainer alone."""
    workdir = tmp_path / "run"
    process = start(command("loaded", workdir))
    wait_for_a_new_checkpoint(process, workdir)
    assert len(group(process.pid)) >= 3
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ends = time.monotonic() + 20
    while group(process.pid) and time.monotonic() < ends:
        time.sleep(0.2)
    left = group(process.pid)
    for each in left:
        os.kill(each, signal.SIGKILL)
    assert not left


def group(leader):
    """The living processes of a process group; Linux only, as is the killer."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(number) == leader and state != "Z":
            pids.append(int(stat.parent.name))
    return pids
