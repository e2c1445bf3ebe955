"""Files that are complete or absent: a file is replaced only once the new one is written."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from vision.errors import UserError


@contextlib.contextmanager
def replacing(path: pathlib.Path | str, binary: bool = False, **options: Any) -> Iterator[IO[Any]]:
    """Opens a temporary file that takes the place of `path` if the block ends without an error.

    Args:
        path: the file to write.
        binary: whether it takes bytes; otherwise text, which is written as UTF-8.
        **options: further arguments of `open`.
    """
    temporary = pathlib.Path(f"{path}.tmp")
    if not binary:
        options = {"encoding": "utf-8", "errors": "surrogateescape"} | options
    try:
        with open(temporary, "wb" if binary else "w", **options) as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path | str, value: Any) -> None:
    """Writes a JSON file, in full or not at all; NumPy's numbers and arrays become plain ones."""
    with replacing(path) as file:
        json.dump(value, file, indent=1, default=lambda x: x.tolist())


def make_directory(path: pathlib.Path | str) -> pathlib.Path:
    """Makes the directory that --out names, and returns it.

    Raises:
        UserError: if it cannot be made.
    """
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --out {path}: {error.strerror}") from error
    return path
