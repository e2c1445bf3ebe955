"""Files that may be anything: read in bounds, parsed so that no error of a parser escapes."""

import codecs
import contextlib
import json
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Any

from vision.errors import RunError, UserError, brief
from vision.support.schema import Damaged, check, damaged

LARGEST_TEXT = 1 << 30  # bytes of a file of text: the largest of COCO has 0.5 GB


def read_bytes(path: pathlib.Path | str, largest: int = LARGEST_TEXT) -> bytes:
    """Returns the contents of a file, whose size is checked before it is read.

    Raises:
        UserError: it is missing, cannot be read, is not an ordinary file, or is too large.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"cannot read {str(path)!r}: it is not an ordinary file")
            if status.st_size > largest:
                raise UserError(
                    f"cannot read {str(path)!r}: it has {status.st_size:,} bytes, "
                    f"but at most {largest:,} are read"
                )
            return file.read()
    except (OSError, ValueError) as error:  # the latter for a name with a NUL
        raise UserError(f"cannot read {str(path)!r}: {brief(error)}") from error


def _open_at_once(path, flags):
    """Opens a file without waiting, as one would for the writer of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_text(
    path: pathlib.Path | str, largest: int = LARGEST_TEXT, any_bytes: bool = False
) -> str:
    """Returns the text of a file in UTF-8, or in UTF-16 with its mark, without a byte order mark.

    Args:
        path: the file.
        largest: see `read_bytes`.
        any_bytes: whether to keep bytes that are not UTF-8, as Python keeps those of file names.

    Raises:
        UserError: as `read_bytes`, or it is not UTF-8.
    """
    data = read_bytes(path, largest)
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode("utf-16")
        return data.decode("utf-8-sig", "surrogateescape" if any_bytes else "strict")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}): save it as 'CSV UTF-8'"
        ) from error


def read_json(
    path: pathlib.Path | str, schema: Any = object, remedy: str = "", form: str = ""
) -> Any:
    """Returns the contents of a JSON file that agrees with a schema.

    Args:
        path: the file.
        schema: see `vision.support.schema`.
        remedy: what to do if it is damaged, for the message.
        form: name of a format that is not ours, such as "in COCO format", for the message.

    Raises:
        UserError: as `read_bytes`.
        Damaged: it is not JSON, gives a key twice, or does not agree with the schema.
    """
    return parse_json(read_bytes(path), schema, path, remedy, form)


def parse_json(text: bytes | str, schema: Any, file: Any, remedy: str = "", form: str = "") -> Any:
    """Returns the value of a JSON text that agrees with a schema; see `read_json`.

    Args:
        text: the text; bytes are UTF-8, or UTF-16 and UTF-32 if they begin with their mark.
        schema: see `vision.support.schema`.
        file: where the text was read, for messages.
        remedy: what to do if it is damaged, for messages.
        form: see `read_json`.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        if form:
            raise Damaged(f"{file}, {place}: {error.msg}") from error
        raise damaged(file, f"{place}: {error.msg}", remedy) from error
    except RecursionError as error:
        raise damaged(file, "it is nested too deeply", remedy, form) from error
    except ValueError as error:  # not text, or an integer of thousands of digits
        raise damaged(file, brief(error), remedy, form) from error
    return check(value, schema, file, remedy, form=form)


def _unique(pairs):
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:60]!r} is given twice")
    return values


@contextlib.contextmanager
def parsing(file: Any, what: str = "", remedy: str = "") -> Iterator[None]:
    """Turns whatever a library raises while it reads a file into one `UserError`.

    Libraries raise dozens of types for files that are damaged or made to harm: none may escape.

    Args:
        file: the file, for the message.
        what: what the file should be, such as "a complete .npz file"; "" if the message says only
            that it cannot be read.
        remedy: what to do.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except OSError as error:
        raise _unreadable(file, brief(error), "", "") from error
    except MemoryError as error:
        raise _unreadable(file, "it needs more memory than there is", "", remedy) from error
    except RecursionError as error:
        raise _unreadable(file, "nested too deeply", what, remedy) from error
    except Exception as error:
        raise _unreadable(file, brief(error), what, remedy) from error
    except BaseException as error:
        # what a library written in Rust raises for a fault of its own
        if type(error).__name__ != "PanicException":
            raise
        raise _unreadable(file, "its parser failed", what, remedy) from error


def _unreadable(file, reason, what, remedy):
    ending = f": {remedy}" if remedy else ""
    if what:
        return UserError(f"{file} is not {what} ({reason}){ending}")
    return UserError(f"cannot read {str(file)!r}: {reason}{ending}")
