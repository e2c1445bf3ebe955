"""Whose fault an error of a training is, its config's or the machine's; when to lose hope."""

import pathlib
import re
import traceback
from collections.abc import Collection, Sequence

from vision.errors import RunError, UserError, brief, first_line
from vision.support import disk
from vision.support.files import replacing

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")
# XLA's words for a device that does not work any more, whatever is computed on it
BROKEN_DEVICE = ("UNAVAILABLE", "DATA_LOSS", "ABORTED", "CUDA_ERROR")
HOPELESS = 5  # trainings that have failed before any has ended well: all of them will
AGAIN = "Fix this, and run the same command again"
LOG = "failures.txt"  # in a search's directory: the tracebacks of errors that nobody expected
MARK = "== "  # begins the title of each failure in the log, and no other line


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
    """Writes the traceback of an unexpected error to `LOG`, in the place of what failed before.

    Other errors leave no trace, nor what the same had left before.

    Args:
        error: the error.
        title: what failed, such as a network's name; the log has its last failure.
        out: directory of the log.
    """
    entries = _entries(out)
    is_known = entries.pop(title, None) is not None
    if is_unexpected(error):
        text = "".join(traceback.format_exception(error))
        entries[title] = re.sub(f"^{MARK}", f" {MARK}", text, flags=re.M)
    elif not is_known:
        return
    _write(out, entries)


def forget_logged(titles: Collection[str], out: pathlib.Path) -> None:
    """Removes what failed from `LOG`, before it is tried again or once it has ended well.

    Args:
        titles: what failed; see `log_unexpected`.
        out: directory of the log.
    """
    entries = _entries(out)
    left = {title: text for title, text in entries.items() if title not in titles}
    if len(left) < len(entries):
        _write(out, left)


def _entries(out):
    """Returns {title: traceback} of the log; what an older version wrote is dropped."""
    try:
        text = (out / LOG).read_text("utf-8", "replace")
    except FileNotFoundError:
        return {}
    parts = re.split(f"^{MARK}", text, flags=re.M)[1:]
    return dict(part.split("\n", 1) for part in parts if "\n" in part)


def _write(out, entries):
    """Writes the log, or removes it if nothing is left."""
    if not entries:
        (out / LOG).unlink(missing_ok=True)
        return
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / LOG, errors="backslashreplace") as file:
        for title, text in entries.items():
            file.write(f"{MARK}{title}\n{text}")


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
