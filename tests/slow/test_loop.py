"""Runs that go on with another number of devices, and one whose memory really does not suffice."""

import subprocess
import sys

import numpy as np

from tests.training.runs import run, stopping_at, tiny, values
from tests.training.test_loop_resumed import check_resumed


def test_a_run_of_eight_devices_goes_on_on_two(tmp_path):
    """The state cut in eight there, in two here; and again whole on one."""
    c = tiny(parallel__devices=8, parallel__fsdp=8, optimizer__name="sgd")
    uninterrupted = run(c, tmp_path / "whole")
    c.train.steps = 12
    for devices, fsdp, last in ((8, 8, 4), (2, 2, 8), (1, 1, 12)):
        c.parallel.devices = devices
        c.parallel.fsdp = fsdp
        with stopping_at(last):
            outcome = run(c, tmp_path / "parts")
    assert (outcome.why, outcome.steps) == ("finished", 12)
    for name in ("loss", "accuracy"):
        ours, theirs = (values(tmp_path / each, f"val/{name}") for each in ("parts", "whole"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert uninterrupted.best_step == outcome.best_step


def test_several_steps_a_dispatch_of_a_vit_resumed_end_with_the_same_bits(tmp_path):
    check_resumed(tmp_path, {})


def test_a_step_that_really_runs_out_of_memory(tmp_path):
    """In a process of its own whose address space is limited."""
    code = (
        "import sys; from vision import cli, main\n"
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30,) * 2)\n"
        "cli.run(main.main, sys.argv[1:])"
    )
    arguments = [
        *(
            "--config",
            "configs/digits.py",
            f"--workdir={tmp_path / 'run'}",
            "--config.train.steps=2",
        ),
        *(
            "--config.train.batch_size=131072",
            "--config.train.eval_batch_size=64",
            "--config.log.images=0",
        ),
        "--config.parallel.devices=1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "error: out of memory with 131072 images at a time" in done.stderr
    assert "Set train.accumulate=" in done.stderr
