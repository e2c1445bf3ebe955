"""What a disk refuses, in words: it is full, read-only, gone, or not ours to write."""

import errno
import os
from collections.abc import Iterator

from vision.errors import RunError, UserError, brief

FULL = (errno.ENOSPC, errno.EDQUOT)
# errors that a device or its administrator causes, not a program
REFUSALS = (*FULL, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM)
# these words stand only for these errors, wherever a library puts them
UNMISTAKABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
AGAIN = "run the same command again"


def refusal(error: BaseException) -> int:
    """Returns the number (`errno`) of the disk's refusal that an exception comes from, 0 if none.

    Libraries wrap the system's error in exceptions of their own, or repeat its words only.
    """
    for link in _chain(error):
        number = getattr(link, "errno", None) if isinstance(link, OSError) else None
        if number in REFUSALS:
            return number
        text = str(link)
        for number in UNMISTAKABLE:
            # the second is ONNX Runtime's
            if os.strerror(number) in text or f"SystemError : {number}" in text:
                return number
    return 0


def explain(error: BaseException) -> str:
    """Returns one line on a file that cannot be read or written; "" for any other exception."""
    number = refusal(error)
    name = next((name for link in _chain(error) if (name := _file_of(link))), "")
    if not number:
        if not isinstance(error, OSError) or not name or error.errno is None:
            return ""
        return f"{name}: {os.strerror(error.errno)}"
    verb = "write" if number in UNMISTAKABLE else "read or write"
    return f"cannot {verb} {name or 'the output'}: {os.strerror(number)}; {remedy(number)}{AGAIN}"


def failed(title: str, error: BaseException) -> UserError | RunError:
    """Returns the error that a command ends with if it cannot write to a place.

    Args:
        title: the place, such as "--out reports".
        error: why.

    Returns:
        A `UserError` for a place that cannot be written at all, a `RunError` for a disk that is
        full or broken.
    """
    number = refusal(error)
    if number in (*FULL, errno.EIO, errno.EFBIG):
        return RunError(f"cannot write to {title}: {os.strerror(number)}; {remedy(number)}{AGAIN}")
    return UserError(f"cannot write to {title}: {brief(error)}")


def remedy(number: int) -> str:
    """Returns what to do about a refusal before the next attempt, as "free some space and "."""
    if number in FULL:
        return "free some space and "
    return "make it writable and " if number in (errno.EROFS, errno.EACCES, errno.EPERM) else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception, and those that it comes from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _file_of(error):
    if not isinstance(error, OSError) or error.filename is None:
        return ""
    name = error.filename2 or error.filename
    if isinstance(name, int):
        return ""
    return os.fsdecode(name)
