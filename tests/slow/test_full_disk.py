"""Disks that really fill up: file systems in memory of a few kilobytes, or with a few files.

Each command ends in one line within seconds; once there is room, the same command goes on, and its
results are those of an undisturbed one.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
TRAIN = [
    "vision.main",
    "--config=configs/vit_mnist5k.py:mu/4:smoke",
    "--config.data.source=digits",
    "--config.augment.affine=False",
    "--config.train.steps=8",
    "--config.train.eval_every=2",
]
CHEAP = [f"--config.evaluation.{key}" for key in ("map=none", "corruptions=false", "explain=false")]
# Mounts a small file system, runs the command, makes room and runs it again; the outputs of each
# call and the files that it left are printed as JSON.
SHELL = """
import json, os, subprocess, sys, time
options, place, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
calls = []
for room in ("", "remount,size=1g,nr_inodes=100000"):
    if room:
        subprocess.run(["mount", "-o", room, place], check=True)
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    names = [os.path.join(folder, n) for folder, d, f in os.walk(place) for n in d + f]
    texts = {n: open(n).read() for n in names if n.endswith((".json", ".jsonl"))}
    calls.append({"code": done.returncode, "err": done.stderr, "out": done.stdout,
                  "seconds": time.monotonic() - began, "names": names, "texts": texts})
print(json.dumps(calls))
"""


def on_disk(options, place, *command):
    """Returns what a command did on a full disk, and again with room."""
    python = [sys.executable, "-m", *command]
    line = ["unshare", "-m", sys.executable, "-c", SHELL, options, str(place), *python]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", autouse=True)
def _can_mount(tmp_path_factory):
    place = tmp_path_factory.mktemp("mount")
    line = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(place)]
    try:
        done = subprocess.run(line, capture_output=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if os.geteuid() or done.returncode:
        pytest.skip("needs root, and the right to mount a file system")


def is_leftover(name):
    return name.endswith((".tmp", ".part", ".old", ".lock")) or "orbax-checkpoint-tmp" in name


def assert_one_line(call, begins):
    """Asserts that a call failed in one sentence, in time, and left no half-written file."""
    errors = [line for line in call["err"].splitlines() if not line.startswith("packing:")]
    assert call["code"] == 1 and "Traceback" not in call["err"]
    assert errors[-1].startswith(f"error: {begins}") and "No space left on device" in errors[-1]
    assert "free some space and" in errors[-1]
    assert call["seconds"] < 120 and not [n for n in call["names"] if n.endswith((".tmp", ".part"))]
    for name, text in call["texts"].items():
        for part in text.splitlines() if name.endswith(".jsonl") else [text]:
            json.loads(part)


def numbers(call):
    """Returns the numbers of result.json and metrics.jsonl, without speeds."""
    texts = {pathlib.Path(name).name: text for name, text in call["texts"].items()}
    result = json.loads(texts["result.json"])
    lines = [json.loads(line) for line in texts["metrics.jsonl"].splitlines()]
    speeds = ("train/images_per_second",)
    return (
        result["loss"],
        result["best_step"],
        [{key: value for key, value in line.items() if key not in speeds} for line in lines],
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    place = tmp_path_factory.mktemp("disk")
    first, again = on_disk("size=1g", place, *TRAIN, f"--workdir={place}/run")
    assert first["code"] == 0 and again["code"] == 0, first["err"]
    return numbers(first)


@pytest.mark.parametrize("options", [
    "size=4k", "size=12k", "size=32k", "size=160k", "size=300k", "size=360k",
    "nr_inodes=2", "nr_inodes=4", "nr_inodes=9", "nr_inodes=20", "nr_inodes=40", "nr_inodes=60",
])  # fmt: skip
def test_training(options, undisturbed, tmp_path):
    first, again = on_disk(options, tmp_path, *TRAIN, f"--workdir={tmp_path}/run")
    assert_one_line(first, "cannot write")
    if "resumes from step" in first["err"]:
        assert "resumed" in again["err"]
    assert again["code"] == 0 and numbers(again) == undisturbed
    assert not [name for name in again["names"] if is_leftover(name)]


@pytest.mark.parametrize("options", [
    "size=4k", "size=100k", "size=300k", "size=430k",
    "nr_inodes=2", "nr_inodes=3", "nr_inodes=4", "nr_inodes=5",
])  # fmt: skip
def test_packing(options, tmp_path):
    pack = ("vision.data", "pack", "digits", f"{tmp_path}/pack", "--workers=1")
    first, again = on_disk(options, tmp_path, *pack)
    assert_one_line(first, "")
    assert again["code"] == 0 and not [name for name in again["names"] if is_leftover(name)]


@pytest.mark.parametrize("room", ["size=4k", "size=16k", "nr_inodes=5"])
@pytest.mark.parametrize("stage", ["evaluation", "export", "audit"])
def test_later_stages(stage, room, run, tmp_path):
    arguments = {
        "evaluation": ("vision.evaluation", f"--workdir={run}", *CHEAP),
        "export": ("vision.export", f"--workdir={run}"),
        "audit": ("vision.audit", "--data=digits"),
    }[stage]
    first, again = on_disk(room, tmp_path, *arguments, f"--out={tmp_path}/out")
    assert_one_line(first, "cannot write")
    assert again["code"] == 0, again["err"]
    assert not [name for name in again["names"] if is_leftover(name)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    command = [sys.executable, "-m", *TRAIN, f"--workdir={workdir}"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return workdir
