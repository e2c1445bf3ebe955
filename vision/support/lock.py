"""Keeps two processes from writing one directory; a crash releases it, whatever it was."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator

from vision.errors import UserError
from vision.support import disk, files

NAME = ".lock"
MOST_BYTES = 200  # of the holder's description
SECONDS_OF_A_LOOK = 0.02  # longer than `is_locked` shares a lock
SECONDS_BETWEEN_TRIES = 0.02
# file systems that have no locks
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_handles: set[int] = set()


class InUse(UserError):
    """Another process holds the lock of a directory."""


@contextlib.contextmanager
def locked(
    directory: pathlib.Path | str, flag: str = "--out", name: str = NAME, patience: float = 0.0
) -> Iterator[pathlib.Path]:
    """Makes a directory, and keeps other processes that lock it out of it during the block.

    The lock is the kernel's, on a hidden file in the directory that is removed afterwards. It ends
    with this process, however that ends, and no worker process inherits it. On a file system
    without locks it keeps nobody out. What killed processes have left is removed. If the directory
    is new, and empty afterwards, it is removed too.

    Args:
        directory: the directory.
        flag: the flag that names it, for messages.
        name: name of the file; locks of several names do not exclude each other.
        patience: seconds to wait for another process that has locked it.

    Yields:
        The directory.

    Raises:
        InUse: another process has it locked for longer.
        UserError: it cannot be written.
        RunError: the disk is full.
    """
    directory = pathlib.Path(directory)
    if directory.exists() and not directory.is_dir():
        raise UserError(f"cannot write to {flag} {directory}, which is a file: give a directory")
    with _holding(directory, name, f"{flag} {directory}", patience):
        if name == NAME:
            files.remove_abandoned(directory)
        yield directory


def is_locked(directory: pathlib.Path | str, name: str = NAME) -> bool:
    """Returns whether a process holds the lock of a directory; False if that cannot be seen.

    Nothing is written. The lock is shared for microseconds, which `locked` waits out.
    """
    try:
        handle = os.open(pathlib.Path(directory, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    _handles.add(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        _close(handle)
    return False


@contextlib.contextmanager
def locked_beside(path: pathlib.Path) -> Iterator[None]:
    """Locks a directory that is replaced as a whole, as `locked` does, by a file beside it."""
    with _holding(path.parent, f".{path.name[: files.LONGEST_NAME]}{NAME}", f"--out {path}"):
        yield


@contextlib.contextmanager
def _holding(directory, name, title, patience=0.0):
    """Makes a directory, and holds the lock of a name in it."""
    new = [place for place in (directory, *directory.parents) if not os.path.lexists(place)]
    handle = None
    try:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            handle = _acquire(directory / name, title, patience)
        except OSError as error:
            raise disk.failed(title, error) from error
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                os.unlink(directory / name)  # while it is locked: see _acquire
            _close(handle)
        for place in new:
            with contextlib.suppress(OSError):
                place.rmdir()  # only if it is empty


def _acquire(path, title, patience):
    """Returns a handle of a new or unlocked file, locked."""
    deadline = time.monotonic() + patience
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        _handles.add(handle)
        try:
            _lock(handle)
        except OSError as error:
            holder = _describe(handle)
            _close(handle)
            if isinstance(error, BlockingIOError):
                if time.monotonic() < deadline:
                    time.sleep(SECONDS_BETWEEN_TRIES)
                    continue
                raise InUse(
                    f"{title} is in use by another process{holder}: wait for it to end, "
                    "or name another directory"
                ) from error
            if error.errno in UNSUPPORTED:
                os.unlink(path)
                return None
            raise
        if _is_same(handle, path):
            with contextlib.suppress(OSError):  # a full disk; the lock needs no content
                os.ftruncate(handle, 0)
                text = f"process {os.getpid()} on {socket.gethostname()}"
                os.write(handle, text.encode()[:MOST_BYTES])
            return handle
        _close(handle)  # its holder has removed it meanwhile


def _lock(handle):
    """Locks a handle for this process alone; the second time, no reader is looking any more."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(SECONDS_OF_A_LOOK)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_same(handle, path):
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _describe(handle):
    with contextlib.suppress(OSError):
        text = os.pread(handle, MOST_BYTES, 0).decode(errors="replace")
        text = "".join(character for character in text if character.isprintable())
        return f" ({text})" if text else ""
    return ""


def _close(handle):
    _handles.discard(handle)
    with contextlib.suppress(OSError):
        os.close(handle)


def _close_all():
    """Closes the inherited handles in a forked process, which would keep the locks."""
    for handle in list(_handles):
        _close(handle)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_all)
