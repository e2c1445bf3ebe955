"""Which exceptions mean that a disk is full, however a library says it."""

import errno
import os

import pytest

from vision.errors import RunError, UserError
from vision.support import disk


def wrapped(message):
    """An exception of a library that was raised from another one with `message`."""
    try:
        try:
            raise RuntimeError(message)
        except RuntimeError as inner:
            raise ValueError("could not save") from inner
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "photos.onnx"),
        RuntimeError("failed: No space left on device [photos.onnx]"),
        RuntimeError("[ONNXRuntimeError] : 7 : SystemError : 28"),
        wrapped("write failed: No space left on device"),
    ],
)
def test_a_full_disk_is_recognized(error):
    assert disk.refusal(error) == errno.ENOSPC
    assert isinstance(disk.failed("--out bundles", error), RunError)
    assert str(disk.failed("--out bundles", error)) == (
        "cannot write to --out bundles: No space left on device; "
        "free some space and run the same command again"
    )


def test_other_failures_are_not_the_disks():
    assert disk.refusal(RuntimeError("shape (2, 28) is wrong")) == 0
    assert isinstance(disk.failed("--out bundles", FileExistsError("bundles")), UserError)
