"""Whether this machine has an accelerator that JAX can use, known without importing JAX.

JAX opens its devices once, after a run's processes have joined: what is decided before cannot ask
it.
"""

import importlib.util
import os
import pathlib

NVIDIA_DRIVER = pathlib.Path("/proc/driver/nvidia")


def has_nvidia_driver() -> bool:
    """Returns whether an NVIDIA driver is loaded."""
    return NVIDIA_DRIVER.exists()


def has_accelerator() -> bool:
    """Returns whether JAX will compute on a GPU or a TPU.

    That needs a plugin of JAX for it and, for NVIDIA's, a driver; JAX's own JAX_PLATFORMS may leave
    it out.
    """
    from importlib import metadata  # not needed by most that import this file

    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms.partition(",")[0] == "cpu":
        return False
    plugins = {plugin.name for plugin in metadata.entry_points(group="jax_plugins")}
    if not has_nvidia_driver():
        plugins = {name for name in plugins if "cuda" not in name}
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
