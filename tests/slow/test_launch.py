"""The launchers, for real: two processes that are stopped go on to the same bits, and end as one
process does."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.support.checkouts import make_checkout
from tests.support.processes import environment_of

REPOSITORY = pathlib.Path(__file__).parents[2]
CONFIG = """
from vision.config import default

def get_config(kind):
    c = default()
    c.model.name = "vit"
    c.model.variant = "mu/2"
    c.train.batch_size = 16
    c.log.tensorboard = False
    if kind == "resident":
        c.train.steps = 400
        c.train.eval_every = 50
        c.data.source = "digits"
        c.augment.affine = True
        c.augment.mixup = 0.4
        c.optimizer.learning_rate = 1e-3
    else:
        c.train.steps = 40
        c.train.eval_every = 20
        c.data.source = "folder:digits"
        c.data.resident_gib = 0.0
        c.data.workers = 2
        c.data.image_size = 8
        c.data.random_crop_area = (0.3, 1.0)
        c.optimizer.name = "sgd"  # Adam would blow up rounding
    return c
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder with the repository's scripts, and for .venv the Python of these tests."""
    root = make_checkout(tmp_path_factory.mktemp("checkout"), "cpu cuda12 basics")
    (root / "run.py").write_text(CONFIG)
    return root


@pytest.fixture(scope="module")
def digits(checkout):
    """150 of scikit-learn's digits as image files, in the checkout."""
    from PIL import Image
    from sklearn import datasets

    dataset = datasets.load_digits()
    for i in range(150):
        folder = checkout / "digits" / str(dataset.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((dataset.images[i] * 255 / 16).astype(np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def launch(checkout):
    """Starts a command in the checkout; whatever is left of it at the end is killed."""
    started = []

    def begin(*command, devices=1, **more):
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=checkout,
            env=environment_of(devices) | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.communicate()


def finish(process, code=0):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code, out
    return out


def local(workdir, kind="resident"):
    return ("scripts/launch/local", 2, f"run.py:{kind}", f"--workdir={workdir}")


def parameters(workdir):
    """{name: array} of the last checkpoint's state; the devices that wrote it are not here."""
    last = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    path = workdir / "checkpoints" / str(last) / "state"
    checkpointer = ocp.PyTreeCheckpointer()
    plain = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
        checkpointer.metadata(path).item_metadata.tree,
    )
    tree = checkpointer.restore(path, restore_args=plain)
    return {
        jax.tree_util.keystr(place): np.asarray(leaf)
        for place, leaf in jax.tree.leaves_with_path(tree)
    }


def assert_same_bits(ours, theirs):
    a = parameters(ours)
    b = parameters(theirs)
    assert a.keys() == b.keys() and len(a) > 20
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


def wait_for_a_checkpoint(process, workdir):
    ends = time.monotonic() + 200
    while not any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(checkout, tmp_path_factory):
    """A run of two processes without an interruption. Returns its directory."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    done = subprocess.run(
        [str(part) for part in local(workdir)],
        cwd=checkout,
        env=environment_of(1),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[0] test: loss" in done.stdout and "2 x cpu in 2 processes" in done.stdout
    assert "[1] test: loss" not in done.stdout
    return workdir


def test_a_finished_run_that_is_called_again_changes_nothing(launch, uninterrupted):
    def contents():
        return {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}

    before = contents()
    output = finish(launch(*local(uninterrupted)))
    assert "[0] finished already: test: loss " in output and "[1] finished" not in output
    assert contents() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_saves_at_a_signal_and_goes_on(launch, uninterrupted, tmp_path, number):
    workdir = tmp_path / "run"
    process = launch(*local(workdir))
    wait_for_a_checkpoint(process, workdir)
    process.send_signal(number)
    assert "[0] interrupted at step " in finish(process)
    assert not (workdir / "result.json").exists()
    assert "[0] resumed" in finish(launch(*local(workdir)))
    assert_same_bits(workdir, uninterrupted)


def test_local_ends_all_when_one_is_killed(launch, tmp_path):
    workdir = tmp_path / "run"
    process = launch(*local(workdir), "--config.train.steps=100000", "--config.checkpoint.every=5")
    wait_for_a_checkpoint(process, workdir)
    os.kill(members(process.pid, "--config.parallel.process=1")[0], signal.SIGKILL)
    assert "local: process 1 ended with exit code 137" in finish(process, 137)
    assert members(process.pid, "vision.main") == []


def members(session, mark):
    """The processes of a session with `mark` among their arguments."""
    pids = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
            pid = int(path.parent.name)
            if mark in words and words[1] != "/bin/bash" and os.getsid(pid) == session:
                pids.append(pid)
        except OSError:
            continue
    return pids


def test_mpirun_is_detected(launch, uninterrupted, tmp_path):
    if not shutil.which("mpirun"):
        pytest.skip("no mpirun on the PATH (Debian: openmpi-bin)")
    workdir = tmp_path / "run"
    more = ["--allow-run-as-root"] if os.getuid() == 0 else []
    command = (
        "mpirun",
        *more,
        "--oversubscribe",
        "-n",
        2,
        "scripts/train",
        "run.py:resident",
        f"--workdir={workdir}",
    )
    assert "2 x cpu in 2 processes" in finish(launch(*command))
    assert_same_bits(workdir, uninterrupted)


def test_pods_save_when_one_of_them_has_to_go(launch, uninterrupted, tmp_path, checkout):
    """Kubernetes tells one pod alone; the pod of index 0 says that the run has not finished."""
    workdir = tmp_path / "run"
    port = 20000 + os.getpid() % 12000
    flags = (f"--config.parallel.coordinator=localhost:{port}", "--config.parallel.processes=2")

    def start(index):
        command = (
            "scripts/launch/pod",
            "--config",
            "run.py:resident",
            f"--workdir={workdir}",
            *flags,
        )
        path = f"{checkout / '.venv' / 'bin'}:{os.environ['PATH']}"
        return launch(*command, PATH=path, JOB_COMPLETION_INDEX=str(index))

    pods = [start(0), start(1)]
    wait_for_a_checkpoint(pods[0], workdir)
    pods[1].terminate()
    assert "interrupted at step " in finish(pods[0], 75)
    finish(pods[1])
    again = [start(0), start(1)]
    assert "resumed" in finish(again[0])
    finish(again[1])
    assert_same_bits(workdir, uninterrupted)


def test_two_processes_with_workers_load_what_one_does(launch, digits, tmp_path):
    split_workdir = tmp_path / "two"
    single_workdir = tmp_path / "one"
    finish(launch(*local(split_workdir, "loaded")))
    finish(launch("scripts/train", "run.py:loaded", f"--workdir={single_workdir}", devices=2))
    a = parameters(split_workdir)
    b = parameters(single_workdir)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_evaluation_by_two_processes_has_the_numbers_of_one(launch, checkout, tmp_path):
    workdir = tmp_path / "run"
    finish(launch(*local(workdir)))
    keys = ("corruptions=false", "views=false", "explain=false", "bootstrap=50", "map_images=50")
    flags = [f"--config.evaluation.{key}" for key in keys]
    results = {}
    for name, start in (
        ("two", ("scripts/launch/local", 2, "-m")),
        ("one", (".venv/bin/python", "-m")),
    ):
        out = tmp_path / name
        text = finish(
            launch(*start, "vision.evaluation", f"--workdir={workdir}", f"--out={out}", *flags)
        )
        assert text.count("report.html, metrics.json") == 1
        results[name] = json.loads((out / "metrics.json").read_text())
    assert results["two"]["confusion"] == results["one"]["confusion"]
    for name, number in results["one"]["metrics"].items():
        assert results["two"]["metrics"][name] == pytest.approx(number, rel=1e-5), name
