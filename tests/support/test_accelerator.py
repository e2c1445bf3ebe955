"""Whether JAX would compute on an accelerator, known without importing it."""

import importlib.metadata
import importlib.util
import subprocess
import sys

import jax
import pytest

from vision.support import accelerator

CUDA = importlib.metadata.EntryPoint("xla_cuda12", "jax_cuda12_plugin", "jax_plugins")
ROCM = importlib.metadata.EntryPoint("xla_rocm7", "jax_rocm7_plugin", "jax_plugins")
METAL = importlib.metadata.EntryPoint("metal", "jax_metal", "jax_plugins")
OTHER = importlib.metadata.EntryPoint("other", "jax_other", "jax_plugins")
NVIDIA = ("NVIDIA_DRIVER",)
WSL = ("WSL_GPU",)
AMD = ("AMD_DRIVER",)


def make_pci_device(folder, number, vendor, device):
    """Writes what Linux says of a device on the PCI bus."""
    (folder / number).mkdir(parents=True)
    (folder / number / "vendor").write_text(f"{vendor}\n")
    (folder / number / "device").write_text(f"{device}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes this a machine with some plugins, files of drivers and variables."""

    def make(plugins=(), drivers=(), variables=None, libtpu=False):
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: libtpu or None)
        monkeypatch.setattr(accelerator, "PCI_DEVICES", tmp_path / "pci")
        for name in ("NVIDIA_DRIVER", "WSL_GPU", "AMD_DRIVER"):
            path = tmp_path if name in drivers else tmp_path / "missing"
            monkeypatch.setattr(accelerator, name, path)
        for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (variables or {}).items():
            monkeypatch.setenv(name, value)
        return tmp_path / "pci"

    return make


@pytest.mark.parametrize(
    ("plugins", "drivers", "variables", "expected"),
    [
        ((), (), {}, False),
        ((), NVIDIA, {}, False),  # JAX without its CUDA plugin computes on the CPU
        ((CUDA,), (), {}, False),
        ((CUDA,), NVIDIA, {}, True),
        ((CUDA,), AMD, {}, False),
        ((CUDA,), WSL, {}, True),  # WSL2 has no /proc/driver/nvidia
        ((CUDA,), NVIDIA, {"JAX_PLATFORMS": "cpu"}, False),
        ((CUDA,), NVIDIA, {"JAX_PLATFORMS": "cuda,cpu"}, True),
        ((CUDA,), NVIDIA, {"CUDA_VISIBLE_DEVICES": ""}, False),
        ((CUDA,), NVIDIA, {"CUDA_VISIBLE_DEVICES": "-1"}, False),
        ((CUDA,), WSL, {"CUDA_VISIBLE_DEVICES": "-1,0"}, False),  # up to the first invalid one
        ((CUDA,), NVIDIA, {"CUDA_VISIBLE_DEVICES": "1,0"}, True),
        ((CUDA,), NVIDIA, {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}, True),
        ((ROCM,), (), {}, False),
        ((ROCM,), AMD, {"CUDA_VISIBLE_DEVICES": ""}, True),
        ((OTHER,), (), {}, True),  # taken at its word
        ((CUDA, OTHER), (), {}, True),
    ],
)
def test_a_plugin_and_its_device_make_an_accelerator(
    plugins, drivers, variables, expected, machine
):
    machine(plugins, drivers, variables)
    assert accelerator.has_accelerator() == expected


@pytest.mark.parametrize(("system", "expected"), [("darwin", True), ("linux", False)])
def test_metal_is_of_macs(system, expected, machine, monkeypatch):
    machine((METAL,))
    monkeypatch.setattr(sys, "platform", system)
    assert accelerator.has_accelerator() == expected


def test_libtpu_needs_a_tpu_on_the_bus(machine):
    bus = machine(libtpu=True)
    assert not accelerator.has_accelerator()
    make_pci_device(bus, "0000:00:04.0", "0x1ae0", "0x0042")  # a network card of Google's
    make_pci_device(bus, "0000:00:05.0", "0x10de", "0x0063")  # of another vendor
    assert not accelerator.has_accelerator()
    make_pci_device(bus, "0000:00:06.0", "0x1ae0", "0x0063")
    assert accelerator.has_accelerator()
    machine()
    assert not accelerator.has_accelerator()


def test_the_tpus_are_those_that_jax_knows():
    from jax._src import hardware_utils

    assert set(accelerator.TPUS) == set(hardware_utils._TPU_PCI_DEVICE_IDS)


def test_it_agrees_with_jax():
    assert accelerator.has_accelerator() == (jax.default_backend() != "cpu")


def test_jax_is_not_imported():
    code = (
        "import sys; from vision.support.accelerator import has_accelerator; has_accelerator(); "
        "sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
