"""Whether this machine has an accelerator that JAX can use, known without importing JAX.

JAX opens its devices once, after a run's processes have joined: what is decided before cannot ask
it.
"""

import importlib.util
import os
import pathlib
import sys

NVIDIA_DRIVER = pathlib.Path("/proc/driver/nvidia")
WSL_GPU = pathlib.Path("/dev/dxg")  # any GPU in WSL2, where no driver is loaded
AMD_DRIVER = pathlib.Path("/dev/kfd")
PCI_DEVICES = pathlib.Path("/sys/bus/pci/devices")
GOOGLE = "0x1ae0"  # the vendor on the PCI bus, also of network cards
# those that jax/_src/hardware_utils.py knows: v3, plc, v4, v5p, v5e, v6e, 7x
TPUS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
IDENTIFIERS = ("GPU-", "MIG-")  # beginnings of names of GPUs in CUDA_VISIBLE_DEVICES


def has_nvidia_driver() -> bool:
    """Returns whether an NVIDIA driver is loaded."""
    return NVIDIA_DRIVER.exists()


def has_accelerator() -> bool:
    """Returns whether JAX will compute on a GPU or a TPU.

    That needs a plugin of JAX for it and the device; JAX's own JAX_PLATFORMS may leave it out, and
    CUDA_VISIBLE_DEVICES may hide it. Of devices that are not looked for here, the plugin suffices.
    """
    from importlib import metadata  # not needed by most that import this file

    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms.partition(",")[0] == "cpu":
        return False
    plugins = [plugin.name for plugin in metadata.entry_points(group="jax_plugins")]
    if importlib.util.find_spec("libtpu") is not None:
        plugins.append("libtpu")
    return any(_has_device(plugin) for plugin in plugins)


def _has_device(plugin):
    """Returns whether there is a device for one of JAX's plugins, by its name."""
    for word, is_there in DEVICES.items():
        if word in plugin:
            return is_there()
    return True


def _has_nvidia_gpu():
    return _shows_gpu() and (has_nvidia_driver() or WSL_GPU.exists())


def _shows_gpu():
    """Returns whether CUDA_VISIBLE_DEVICES shows a GPU: CUDA stops at the first invalid entry."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return True
    first = shown.partition(",")[0].strip()
    return first.isdigit() or first.startswith(IDENTIFIERS)


def _has_amd_gpu():
    return AMD_DRIVER.exists() or WSL_GPU.exists()


def _has_tpu():
    return any(
        _text(vendor) == GOOGLE and _text(vendor.with_name("device")) in TPUS
        for vendor in PCI_DEVICES.glob("*/vendor")
    )


def _text(path):
    try:
        return path.read_text().strip()
    except OSError:  # the device has been removed meanwhile
        return ""


def _is_mac():
    return sys.platform == "darwin"


# {part of a plugin's name: whether its device is there}
DEVICES = {
    "cuda": _has_nvidia_gpu,
    "rocm": _has_amd_gpu,
    "metal": _is_mac,
    "libtpu": _has_tpu,
}
