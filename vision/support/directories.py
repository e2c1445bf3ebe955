"""Directories that are complete or absent: one is replaced only once the new one is written."""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from vision.support import disk
from vision.support.exchange import exchange
from vision.support.files import LONGEST_NAME, new_directory, sync, temporary_beside
from vision.support.lock import locked_beside


def files_in(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files and symbolic links below a directory."""
    return [path for path in directory.rglob("*") if not path.is_dir() or path.is_symlink()]


@contextlib.contextmanager
def replacing_directory(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new directory, which replaces `out` when the block ends without an error.

    Whenever this process is killed, `out` is the old directory or the new one: they change places
    at once if the system can do that; otherwise the next call restores the old one. What killed
    calls have left is removed.

    Raises:
        UserError: the directory cannot be written, or another process is writing it.
        RunError: the disk is full.
    """
    out = pathlib.Path(os.path.realpath(out))
    with locked_beside(out):
        try:
            _clear(out)
            with new_directory(out) as temporary:
                yield temporary
                for file in files_in(temporary):
                    sync(file)
                _swap(temporary, out)
        except OSError as error:
            raise disk.failed(f"--out {out}", error) from error


def _clear(out):
    """Removes what killed calls have left beside `out`, and puts the old one back if need be."""
    pattern = re.compile(re.escape(f".{out.name[:LONGEST_NAME]}.") + r"[0-9a-f]+\.(tmp|old)")
    for path in out.parent.iterdir():
        if not (leftover := pattern.fullmatch(path.name)):
            continue
        if leftover[1] == "old" and not out.exists():
            path.rename(out)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _swap(new, out):
    """Puts a directory in the place of `out`, which takes its place, or is removed."""
    if not out.exists():
        new.rename(out)
    elif not exchange(new, out):
        old = temporary_beside(out, "old")
        out.rename(old)
        try:
            new.rename(out)
        except OSError:
            old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
