"""Files that are complete or absent: a file is replaced only once the new one is written."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator
from typing import IO, Any

from vision.support import disk

LONGEST_NAME = 200  # characters of a file's name in that of its temporary file; the system has 255
ABANDONED = re.compile(r"\..+\.[0-9a-f]+\.tmp")  # what a killed process may leave


@contextlib.contextmanager
def replacing(path: pathlib.Path | str, binary: bool = False, **options: Any) -> Iterator[IO[Any]]:
    """Opens a temporary file that takes the place of `path` if the block ends without an error.

    A device or a pipe is opened itself. Temporary files that killed processes have left for the
    same path are removed.

    Args:
        path: the file to write.
        binary: whether it takes bytes; otherwise text, which is written as UTF-8.
        **options: further arguments of `open`.

    Raises:
        OSError: it cannot be written; `filename` is the path. What was there remains.
    """
    mode = "wb" if binary else "w"
    if not binary:
        options = {"encoding": "utf-8", "errors": "surrogateescape"} | options
    with replacing_path(path) as temporary, open(temporary, mode, **options) as file:
        yield file


@contextlib.contextmanager
def replacing_path(path: pathlib.Path | str) -> Iterator[pathlib.Path]:
    """Yields a temporary path that takes the place of `path` if the block ends without an error.

    For libraries that open files themselves; otherwise see `replacing`.
    """
    final = pathlib.Path(os.path.realpath(path))
    if final.exists() and not final.is_file():
        with _naming(path):
            yield final
        return
    with _naming(path):
        remove_abandoned(final.parent, final.name)
        temporary, lock = _create(final)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(lock)


def write_json(path: pathlib.Path | str, value: Any) -> None:
    """Writes a JSON file, in full or not at all; NumPy's numbers and arrays become plain ones."""
    with replacing(path) as file:
        json.dump(value, file, indent=1, default=lambda x: x.tolist())


def make_directory(path: pathlib.Path | str) -> pathlib.Path:
    """Makes the directory that --out names, and returns it.

    Raises:
        UserError, RunError: if it cannot be made.
    """
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk.failed(f"--out {path}", error) from error
    return path


@contextlib.contextmanager
def filling(directory: pathlib.Path | str, title: str = "--out") -> Iterator[pathlib.Path]:
    """Yields a new directory whose files are moved into `directory` at the end of the block.

    If it ends with an error, all files in `directory` are as before.

    Args:
        directory: it is made if it does not exist.
        title: the flag that names it, for messages.

    Raises:
        UserError, RunError: it cannot be written to.
    """
    directory = pathlib.Path(directory)
    try:
        with new_directory(directory / "files") as temporary:
            yield temporary
            for file in temporary.iterdir():
                sync(file)
            for file in temporary.iterdir():
                os.replace(file, directory / file.name)
    except OSError as error:
        raise disk.failed(f"{title} {directory}".strip(), error) from error


@contextlib.contextmanager
def new_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new hidden directory beside a path; what has its name at the end is removed.

    `remove_abandoned` does not take it for abandoned meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        handle = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            temporary.mkdir(exist_ok=True)  # another process may have removed it before
            yield temporary
        finally:
            os.close(handle)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_beside(path: pathlib.Path, suffix: str = "tmp") -> pathlib.Path:
    """Returns a new hidden path beside a file or directory, as `ABANDONED` describes it."""
    return path.with_name(f".{path.name[:LONGEST_NAME]}.{secrets.token_hex(4)}.{suffix}")


def remove_abandoned(directory: pathlib.Path, name: str = "") -> None:
    """Removes what killed processes have left in a directory.

    A temporary file that a process is writing, on whatever machine, stays.

    Args:
        directory: the directory; it may be missing.
        name: only temporary files of this file.
    """
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for entry in names:
        of_name = not name or entry.rsplit(".", 2)[0] == f".{name[:LONGEST_NAME]}"
        if of_name and ABANDONED.fullmatch(entry):
            _remove_unlocked(directory / entry)


def sync(path: pathlib.Path | str) -> None:
    """Waits until a file is on the disk: a crash could otherwise leave it renamed, but empty."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _create(final):
    """Returns (new temporary file beside a path, handle whose lock says that it is being written).

    The lock is the kernel's, so it ends with the process.
    """
    while True:
        temporary = temporary_beside(final)
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return temporary, handle
        os.close(handle)  # another process took it for abandoned before it was locked


def _remove_unlocked(path):
    """Removes a temporary file or directory unless a process writes it."""
    try:
        mode = os.O_RDONLY if path.is_dir() else os.O_RDWR
        handle = os.open(path, mode | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(handle)
    except OSError:  # being written, or not ours
        return


@contextlib.contextmanager
def _naming(path):
    """Gives an OSError of a write, which has no file name, that of the file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and _is_temporary(error.filename):
            error.filename = os.fspath(path)
            error.filename2 = None
        raise


def _is_temporary(name):
    return name is None or bool(ABANDONED.fullmatch(os.path.basename(os.fsdecode(name))))
