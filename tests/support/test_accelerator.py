"""Whether JAX would compute on an accelerator, known without importing it."""

import importlib.metadata
import importlib.util
import subprocess
import sys

import jax
import pytest

from vision.support import accelerator

CUDA = importlib.metadata.EntryPoint("xla_cuda12", "jax_cuda12_plugin", "jax_plugins")
METAL = importlib.metadata.EntryPoint("metal", "jax_metal", "jax_plugins")


@pytest.mark.parametrize(
    ("plugins", "driver", "platforms", "expected"),
    [
        ((), False, "", False),
        ((), True, "", False),  # JAX without its CUDA plugin computes on the CPU
        ((CUDA,), False, "", False),
        ((CUDA,), True, "", True),
        ((CUDA,), True, "cpu", False),
        ((CUDA,), True, "cuda,cpu", True),
        ((METAL,), False, "", True),
    ],
)
def test_a_plugin_and_its_driver_make_an_accelerator(
    plugins, driver, platforms, expected, monkeypatch, tmp_path
):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # no libtpu
    monkeypatch.setattr(accelerator, "NVIDIA_DRIVER", tmp_path if driver else tmp_path / "missing")
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert accelerator.has_accelerator() == expected


def test_it_agrees_with_jax():
    assert accelerator.has_accelerator() == (jax.default_backend() != "cpu")


def test_jax_is_not_imported():
    code = (
        "import sys; from vision.support.accelerator import has_accelerator; has_accelerator(); "
        "sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
