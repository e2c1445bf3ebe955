"""Lets two files or directories change places at once."""

import ctypes
import os
import pathlib

AT_FDCWD = -100  # fcntl.h: paths are relative to the working directory
RENAME_EXCHANGE = 2  # linux/fs.h


def exchange(a: pathlib.Path, b: pathlib.Path) -> bool:
    """Exchanges the names of two files or directories of one file system.

    Returns:
        Whether it was done; some systems and file systems cannot, such as NFS.
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux, with a recent C library
    if renameat2 is None:
        return False
    return not renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE)
