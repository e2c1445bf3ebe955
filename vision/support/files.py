"""Files that are whole or not there: what was in their place is lost only once the new one is
written."""

import contextlib
import json
import os
import pathlib

from vision.errors import UserError


@contextlib.contextmanager
def replacing(path, binary=False, **options):
    """Opens a file for writing, of bytes or UTF-8; it takes its place when the block ends without
    an error."""
    temporary = pathlib.Path(f"{path}.tmp")
    try:
        text = {} if binary else {"encoding": "utf-8", "errors": "surrogateescape"}
        with open(temporary, "wb" if binary else "w", **text, **options) as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    """Writes a JSON file, whole or not at all; NumPy's numbers and arrays become plain ones."""
    with replacing(path) as file:
        json.dump(value, file, indent=1, default=lambda x: x.tolist())


def make_directory(path):
    """Returns a directory as a `pathlib.Path`; raises `UserError` where it cannot be made."""
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --out {path}: {error.strerror}") from error
    return path
