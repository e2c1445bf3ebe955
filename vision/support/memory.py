"""Host memory on CPUs: freed memory stays with the process."""

import ctypes
import pathlib
import sys

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
M_ARENA_MAX = -8


def keep_freed_memory():
    """Lets glibc's malloc keep what is freed for what is asked next; returns whether it does.

    XLA's CPU backend allocates a step's temporaries anew each time, 1.1 GB for a ViT-Ti/4 with 64
    images. Given back to the kernel each time, their 300,000 page faults take a fifth of the step.
    The process then holds its peak to its end. Nothing is done beside an NVIDIA GPU, where
    temporaries live there; elsewhere than with glibc; and once JAX is imported, for its threads
    have memory of their own by then.
    """
    if (
        "jax" in sys.modules
        or not sys.platform.startswith("linux")
        or pathlib.Path("/proc/driver/nvidia").exists()
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return bool(
        mallopt
        and mallopt(M_ARENA_MAX, 1)
        and mallopt(M_MMAP_MAX, 0)
        and mallopt(M_TRIM_THRESHOLD, -1)
    )
