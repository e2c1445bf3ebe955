"""Whose fault an error of a training is: its config's, or the machine's."""

import traceback

from vision.errors import RunError, UserError, brief, first_line
from vision.support import disk

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")
# XLA's words for a device that does not work any more, whatever is computed on it
BROKEN_DEVICE = ("UNAVAILABLE", "DATA_LOSS", "ABORTED", "CUDA_ERROR")


def reason_of(error: Exception) -> str:
    """Returns in one line why a config could not be trained; "" if the machine is at fault.

    The machine is at fault for whatever the system refuses, such as a file on a full disk, even if
    a library or a message of ours wraps it, and for a device that is broken. A mistake in the
    config, a loss that is not finite and memory that does not suffice are the config's fault. So is
    an error that nobody expected; its traceback goes to stderr.
    """
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY):
        return f"out of memory: {brief(error)}"
    number = disk.refusal(error)
    if isinstance(error, UserError):  # files of the config may be missing or unreadable
        return "" if number in disk.UNMISTAKABLE else first_line(error)
    if number or isinstance(error, OSError):
        return ""
    if isinstance(error, RunError):
        return first_line(error)
    if isinstance(error, RuntimeError) and any(sign in text for sign in BROKEN_DEVICE):
        return ""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {brief(error)}"
