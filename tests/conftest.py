"""Eight fake devices and the compile cache, for every test; both have to be set before JAX starts."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared" / "data"

jax.config.update("jax_compilation_cache_dir", str(pathlib.Path("~/.cache/vision/xla").expanduser()))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data beside the checkout; tests that need it are skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture
def float64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield
