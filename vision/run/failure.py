"""Why a run's training ended with an error: failed.json, until the run is resumed."""

import contextlib
import datetime
import pathlib
from typing import Any

from vision.errors import printable
from vision.support.files import write_json
from vision.support.reading import read_json
from vision.support.schema import NATURAL

NAME = "failed.json"
SCHEMA = {"reason": str, "step": NATURAL, "date": str}


def note_failure(workdir: pathlib.Path, error: BaseException | None, step: int) -> None:
    """Notes the error that ended a training, if one did; Ctrl-C and signals are not failures.

    Args:
        workdir: the run directory.
        error: what was raised, or None.
        step: finished steps.
    """
    if not isinstance(error, Exception):
        return
    text = " ".join(line.strip() for line in str(error).splitlines())
    reason = printable(text or type(error).__name__, 2000)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with contextlib.suppress(OSError):  # a full disk may be what it failed of
        write_json(workdir / NAME, {"reason": reason, "step": step, "date": date})


def clear_failure(workdir: pathlib.Path) -> None:
    """Forgets the failure of a training that is resumed."""
    (workdir / NAME).unlink(missing_ok=True)


def read_failure(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns the contents of failed.json; None if there is none.

    Raises:
        UserError: it is damaged.
    """
    file = workdir / NAME
    return read_json(file, SCHEMA) if file.is_file() else None
