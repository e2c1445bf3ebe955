"""Whether oneDNN computes convolutions and matrix products, decided once for a process."""

import atexit
import functools
import sys

import jax
import jax.numpy as jnp

from vision.cpu import calls, lowering, onednn
from vision.errors import check_choice
from vision.support.devices import open_devices

CHOICES = ("auto", "off")

# Seconds. A thread of Python that computes keeps the interpreter for as long; with the default of
# 5 ms each convolution waits 0.4 ms for it.
SWITCH_INTERVAL = 1e-4

_reason = "it was not asked for"  # why oneDNN computes nothing, or ""


def choose(choice: str) -> None:
    """Lets oneDNN compute, in programs that are lowered from now on, if it can.

    Programs for several devices keep XLA's own: it would gather the images on each of them.

    Args:
        choice: config.parallel.onednn: "auto", or "off" for XLA's own.

    Raises:
        UserError: the choice is unknown; see also `open_devices`.
    """
    global _reason
    check_choice("parallel.onednn", choice, CHOICES)
    open_devices()
    _reason = "parallel.onednn = 'off'" if choice == "off" else _why_not()
    lowering.install()
    lowering.use_onednn(not _reason)


def uses_onednn(devices: int = 1) -> bool:
    """Returns whether oneDNN computes in a program for some devices."""
    return not _reason and devices == 1


def describe(devices: int = 1) -> str:
    """Returns who computes there, to follow the devices' name; "" on a GPU."""
    if jax.default_backend() != "cpu":
        return ""
    if uses_onednn(devices):
        return ", with oneDNN"
    return f", without oneDNN ({_reason or 'several devices'})"


@functools.cache
def _why_not():
    """Prepares oneDNN; returns why it cannot be used, or ""."""
    if jax.default_backend() != "cpu":
        return f"not for a {jax.default_backend()}"
    try:
        calls.api_version()
        onednn.load()
    except (OSError, ValueError) as error:
        return str(error)
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL))
    atexit.register(_wait)
    return ""


def _wait():
    """Waits for programs that still run when Python ends.

    JAX then waits for them while it holds the interpreter, for which a convolution would wait: for
    ever. Programs of one thread run in their order, so that this one comes last.
    """
    for array in jax.live_arrays():
        try:
            array.block_until_ready()
        except jax.errors.JaxRuntimeError:
            continue
    jax.jit(lambda x: x + 1)(jnp.zeros(1)).block_until_ready()
