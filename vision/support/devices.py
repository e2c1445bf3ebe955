"""The devices on which JAX computes."""

import os
import re

import jax

from vision.errors import UserError, brief

BACKEND = re.compile(r"^Unable to initialize backend '\w+': ")


def open_devices() -> list[jax.Device]:
    """Returns the devices of JAX's default platform, of all processes.

    JAX opens them once for a process; what touches them first must go through here.

    Raises:
        UserError: a platform that JAX_PLATFORMS names has no plugin, no driver or no device.
    """
    try:
        return jax.devices()
    # JAX asserts that some platform is left once it has skipped those without a plugin.
    except (RuntimeError, AssertionError) as error:
        reason = "it has no plugin, no driver or no device here"
        if str(error):
            reason = BACKEND.sub("", brief(error).partition(". (set JAX_PLATFORMS")[0])
        platforms = os.environ.get("JAX_PLATFORMS")
        place = f"JAX_PLATFORMS={platforms}" if platforms else "its devices"
        raise UserError(
            f"JAX cannot compute on {place}: {reason}.\n"
            "JAX_PLATFORMS=cpu computes on the CPU; python -m vision.doctor shows what is here"
        ) from error
