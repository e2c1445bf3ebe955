"""The memory of a process: freed memory stays, and Python seldom looks for garbage at first."""

import ctypes
import gc
import sys

from vision.support.accelerator import has_nvidia_driver

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
M_ARENA_MAX = -8

_usual_thresholds = gc.get_threshold()
SELDOM = 100_000  # new containers before Python looks for garbage; its default is 700


def keep_freed_memory() -> bool:
    """Lets glibc's malloc reuse freed memory instead of giving it back to the kernel.

    XLA's CPU backend allocates a step's temporaries anew each time, 1.1 GB for a ViT-Ti/4 with 64
    images. If they go back to the kernel each time, their 300,000 page faults take a fifth of the
    step. The price: the process holds its peak of memory until it ends.

    Does nothing on a machine with an NVIDIA GPU, where temporaries live on the GPU; without glibc;
    and once JAX is imported, since its threads then have arenas of their own. A program that starts
    a thread earlier must call `use_one_arena` before that.

    Returns:
        Whether malloc was changed.
    """
    return _set_malloc((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))


def use_one_arena() -> bool:
    """Lets all threads share malloc's main arena, the only one that grows beyond 64 MiB.

    An arena that a thread has made stays, and JAX's threads take it when that thread ends or
    rests: then `keep_freed_memory` comes too late for them. So this precedes the first thread.

    Returns:
        Whether malloc was changed; see `keep_freed_memory`.
    """
    return _set_malloc((M_ARENA_MAX, 1))


def _set_malloc(*settings: tuple[int, int]) -> bool:
    """Sets {parameter: value} of glibc's malloc, where that helps."""
    if "jax" in sys.modules or not sys.platform.startswith("linux"):
        return False
    if has_nvidia_driver():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return all(mallopt(parameter, value) for parameter, value in settings)


def collect_seldom() -> None:
    """Lets Python look for garbage seldom, until `collect_as_usual`.

    What is imported and traced before the first step mostly stays, and each look goes through all
    of it again and lets JAX do the same: a tenth of the time to the first step.
    """
    gc.set_threshold(SELDOM, *_usual_thresholds[1:])


def collect_as_usual() -> None:
    """Lets Python look for garbage as often as it did before `collect_seldom`."""
    gc.set_threshold(*_usual_thresholds)
