"""Custom calls of XLA's by which a program computes with oneDNN."""

import functools
import hashlib
import threading
from collections.abc import Callable, Hashable
from typing import Any

from vision.cpu import calls
from vision.cpu.onednn import OneDnnError, Workspace

_lock = threading.Lock()
_idle: list[Workspace] = []  # as many as were ever computed at once


def find_target(kind: str, shapes: Hashable, create: Callable[[Any], Any]) -> str | None:
    """Returns the name of the custom call that computes something, None if oneDNN cannot.

    Each geometry has a call of its own, registered whenever a program is lowered, so also before
    one runs that was compiled by another process. The handler needs only the arrays' addresses.

    Args:
        kind: what it computes, in a word.
        shapes: all that it depends on; its `repr` says what it is.
        create: makes the primitive from the shapes.
    """
    digest = hashlib.sha256(repr((kind, shapes)).encode()).hexdigest()
    target = f"vision_{kind}_{digest[:20]}"
    with _lock:
        if not calls.is_registered(target):
            try:
                primitive = create(shapes)
            except OneDnnError:
                return None
            calls.register(target, functools.partial(_execute, primitive))
    return target


def _execute(primitive, inputs, outputs):
    """Runs a primitive in a workspace of its own: several may be computed at once."""
    try:
        workspace = _idle.pop()
    except IndexError:
        workspace = Workspace()
    try:
        primitive.execute(workspace, inputs, outputs[0])
    finally:
        _idle.append(workspace)
