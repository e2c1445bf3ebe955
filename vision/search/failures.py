"""Whose fault an error of a training is, its config's or the machine's; when to lose hope."""

import pathlib
import traceback
from collections.abc import Sequence

from vision.errors import RunError, UserError, brief, first_line
from vision.support import disk

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")
# XLA's words for a device that does not work any more, whatever is computed on it
BROKEN_DEVICE = ("UNAVAILABLE", "DATA_LOSS", "ABORTED", "CUDA_ERROR")
HOPELESS = 5  # trainings that have failed before any has ended well: all of them will
AGAIN = "Fix this, and run the same command again"
LOG = "failures.txt"  # in a search's directory: the tracebacks of errors that nobody expected


def reason_of(error: Exception) -> str:
    """Returns in one line why a config could not be trained; "" if the machine is at fault.

    The machine is at fault for whatever the system refuses, such as a file on a full disk, even if
    a library or a message of ours wraps it, and for a device that is broken. A mistake in the
    config, a loss that is not finite and memory that does not suffice are the config's fault. So is
    an unexpected error: see `is_unexpected`.
    """
    text = str(error)
    if _is_out_of_memory(error):
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
    return f"{type(error).__name__}: {brief(error)}"


def is_unexpected(error: Exception) -> bool:
    """Returns whether the reason of an error does not explain it: its traceback is needed."""
    is_explained = isinstance(error, UserError | RunError) or _is_out_of_memory(error)
    return not is_explained and bool(reason_of(error))


def log_unexpected(error: Exception, title: str, out: pathlib.Path) -> None:
    """Appends the traceback of an unexpected error to `LOG`; other errors leave no trace.

    Args:
        error: the error.
        title: what failed.
        out: directory of the log.
    """
    if is_unexpected(error):
        out.mkdir(parents=True, exist_ok=True)
        with (out / LOG).open("a") as file:
            file.write(f"{title}\n")
            traceback.print_exception(error, file=file)


def check_hope(
    what: str, reasons: Sequence[str], ended: int, remedy: str, least: int = HOPELESS
) -> None:
    """Raises `RunError` if all trainings have failed so far, and they are many.

    Args:
        what: what was trained, such as "trials".
        reasons: why those that failed did, in their order.
        ended: how many have ended, well or not.
        remedy: how to try again.
        least: how many are many.
    """
    if len(reasons) >= least and len(reasons) == ended:
        raise RunError(
            f"the first {ended} {what} have all failed, the last with: {reasons[-1]}\n{remedy}"
        )


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)
