"""Signals at moments that nobody chose, dead and stuck workers, too low limits: from outside."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.slow.test_kill import REPOSITORY, arrays, checkpoints, finish, group, start

CONFIG = """
from vision.config import default

def get_config(kind):
    c = default()
    c.train.steps = 60
    c.train.batch_size = 16
    c.train.eval_every = 7
    c.checkpoint.every = 5
    c.log.tensorboard = False
    c.data.source = "folder:FOLDER"
    c.data.image_size = 16
    c.model.name = "vit"
    c.model.variant = "mu/4"
    c.schedule.name = "plateau"
    c.schedule.patience = 1
    if kind == "loaded":
        c.data.resident_gib = 0.0
        c.data.workers = 2
        c.data.random_crop_area = (0.3, 1.0)
    if kind == "slow":
        c.model.variant = "Ti/4"
        c.data.image_size = 64
        c.train.steps = 1000
        c.train.eval_every = 1000
    return c
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Maps (kind, workdir, overrides) to the command line of a run."""
    root = tmp_path_factory.mktemp("noise")
    random_pixels = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(50):
            pixels = random_pixels.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{name}{i}.jpg")
    file = root / "config.py"
    file.write_text(CONFIG.replace("FOLDER", str(root / "photos")))

    def get(kind, workdir, *overrides):
        program = [sys.executable, "-m", "vision.main"]
        return [*program, "--config", f"{file}:{kind}", "--workdir", str(workdir), *overrides]

    return get


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


def assert_ended(process, code, out):
    """With an exit code, without a traceback, and with all its workers."""
    assert process.returncode == code, out
    assert "Traceback" not in out and "Exception" not in out and "Error" not in out
    ends = time.monotonic() + 20
    while group(process.pid) and time.monotonic() < ends:
        time.sleep(0.1)
    assert not group(process.pid)


@pytest.mark.parametrize("kind", ["resident", "loaded"])
def test_signals_at_random_moments(tmp_path, command, uninterrupted, kind):
    """Each ends the run with 0; the last one lets it finish, with the bits of a whole run."""
    workdir = tmp_path / "run"
    seed = random.randrange(10**6)
    print(f"random.Random({seed})")
    rng = random.Random(seed)
    whole = uninterrupted(kind)
    began = time.monotonic()
    finish(command(kind, tmp_path / "timed"))
    longest = time.monotonic() - began
    for _ in range(6):
        process = start(command(kind, workdir))
        time.sleep(rng.uniform(1, longest))
        if process.poll() is None:
            os.killpg(process.pid, rng.choice([signal.SIGTERM, signal.SIGINT]))
        out = "".join(process.communicate(timeout=60))
        print(out)
        assert_ended(process, 0, out)
        assert "interrupted" in out or "test: loss" in out
    finish(command(kind, workdir))
    a = arrays(workdir)
    b = arrays(whole)
    # A signal in the last validation leaves that due, and the schedule's answer to it unsaved.
    names = [name for name in a if "lr_scale" not in name]
    assert all(a[name].tobytes() == b[name].tobytes() for name in names)
    results = [json.loads((path / "result.json").read_text()) for path in (workdir, whole)]
    assert results[0]["loss"] == results[1]["loss"]
    assert results[0]["best_step"] == results[1]["best_step"]


def test_slow_steps_are_saved_within_two(tmp_path, command):
    workdir = tmp_path / "run"
    process = start(command("slow", workdir, "--config.log.every=1", "--config.checkpoint.every=3"))
    ends = time.monotonic() + 300
    while not checkpoints(workdir):
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.1)
    step = (
        16
        / json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])[
            "train/images_per_second"
        ]
    )
    time.sleep(3 * step)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    out = "".join(process.communicate(timeout=300))
    seconds = time.monotonic() - began
    print(f"{step:.2f} s a step, ended after {seconds:.2f} s")
    assert_ended(process, 0, out)
    assert "saved; the same command" in out
    assert seconds < 2 * max(step, 0.5) + 15


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, "error: a process that loads images was killed, probably because memory"),
        (signal.SIGSTOP, "error: no batch for data.worker_timeout = 15 s: is the disk or network"),
    ],
)
def test_a_dead_or_stuck_worker(tmp_path, command, number, message):
    workdir = tmp_path / "run"
    options = ("--config.train.steps=100000", "--config.data.worker_timeout=15")
    process = start(command("loaded", workdir, *options))
    while not checkpoints(workdir):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    os.kill(workers(process.pid)[0], number)
    out = "".join(process.communicate(timeout=100))
    assert_ended(process, 1, out)
    assert message in out
    assert max(checkpoints(workdir)) > 5


def test_a_signal_while_a_worker_is_stuck(tmp_path, command):
    workdir = tmp_path / "run"
    process = start(command("loaded", workdir, "--config.train.steps=100000"))
    while not checkpoints(workdir):
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(workers(process.pid)[0], signal.SIGSTOP)
    time.sleep(3)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    out = "".join(process.communicate(timeout=100))
    assert_ended(process, 0, out)
    assert time.monotonic() - began < 20
    step = int(re.search(r"interrupted at step (\d+): saved", out)[1])
    assert max(checkpoints(workdir)) == step


def workers(pid):
    """The worker processes of a run."""
    listed = subprocess.run(["pgrep", "-P", str(pid), "-f", "spawn_main"], stdout=subprocess.PIPE)
    return [int(line) for line in listed.stdout.split()]


def test_too_few_files(tmp_path, command):
    line = " ".join(command("loaded", tmp_path / "run"))
    done = subprocess.run(
        ["sh", "-c", f"ulimit -n 64; {line}"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "error: this process may open 64 files" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_too_little_shared_memory(tmp_path, command):
    size = ("--config.data.image_size=224", "--config.train.batch_size=128")
    line = " ".join(command("loaded", tmp_path / "run", *size))
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount}; {line}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "MiB of shared memory" in done.stderr and "--shm-size=1g" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(tmp_path / "run" / "checkpoints").exists()
