"""Eight fake devices, fast compilation and the compile cache, for every test; the devices and what
XLA compiles with have to be set before JAX starts."""

import gc
import importlib.metadata
import os
import pathlib

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Compiling is what the tests' time goes into: without LLVM's optimizations it is 0.6 of it.
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # A quarter of that again: fusions become LLVM code directly and not by way of MLIR. A flag that
    # XLA does not have would end the process.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from vision import parallel

REPOSITORY = pathlib.Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared" / "data"
# `parallel.xla_options` of runs that have to compile as their users' do.
AS_USERS_DO = "xla_cpu_use_fusion_emitters=true" if "emitters" in os.environ["XLA_FLAGS"] else ""

# Small programs too, each a few kB: a test compiles dozens of them, which other tests have as well.
parallel.MIN_COMPILE_TIME = 0.0  # of the runs that tests train in their own process
parallel.keep_programs("~/.cache/vision/xla")
# A collection walks over all that was ever traced, which at the usual pace takes a seventh of the
# tests' time.
gc.set_threshold(10_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def quiet():
    """No lines of progress, which would be in what a command prints if the machine is slow."""
    from vision.support import progress

    with progress.quiet():
        yield


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data beside the checkout; tests that need it are skipped where it is
    missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture
def float64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


# What makes configs/digits.py:smoke a ViT of a few thousand parameters.
TINY_VIT = {
    "model.name": "vit",
    "model.variant": "mu/4",
    "parallel.devices": 1,
    "augment.affine": False,
    "model.batch_norm_groups": None,
    "model.stochastic_depth": None,
    "log.progress": False,
}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The directory of a finished run: a ViT of a few thousand parameters on digits of 8 px."""
    from vision import cli, main

    workdir = tmp_path_factory.mktemp("tiny") / "run"
    argv = ["--config", str(REPOSITORY / "configs/digits.py:smoke"), f"--workdir={workdir}"]
    cli.run(main.main, argv + [f"--config.{key}={value}" for key, value in TINY_VIT.items()])
    return workdir
