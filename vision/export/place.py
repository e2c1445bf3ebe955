"""Checks and replaces the directory of an export, all of it or nothing."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from vision.bundle.directory import MANIFEST
from vision.errors import UserError
from vision.support.reading import read_json


def check_place(out: pathlib.Path) -> None:
    """Raises `UserError` if a bundle would replace anything other than a bundle."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"cannot write to --out {out}: it is a file")
    try:
        manifest = read_json(out / MANIFEST, {"sha256": {str: str}})
        own_files = {*manifest["sha256"], MANIFEST}
    except UserError:
        own_files = set()
    names = [file.relative_to(out).as_posix() for file in files_in(out)]
    foreign = [name for name in names if name not in own_files]
    if foreign:
        raise UserError(
            f"--out {out} contains files that are not a bundle's, such as {min(foreign)}: "
            "name another directory"
        )


def files_in(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files and symbolic links below a directory."""
    return [path for path in directory.rglob("*") if not path.is_dir() or path.is_symlink()]


@contextlib.contextmanager
def replacing_directory(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new directory, which replaces `out` when the block ends without an error.

    Raises:
        UserError: the directory cannot be written.
    """
    temporary, old = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        has_replaced = out.exists()
        if has_replaced:
            out.rename(old)
        try:
            temporary.rename(out)
        except OSError:
            if has_replaced:
                old.rename(out)
            raise
    except OSError as error:
        raise UserError(f"cannot write to --out {out}: {error.strerror or error}") from error
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
