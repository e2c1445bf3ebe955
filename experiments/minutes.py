"""Minutes of work in a file, which an interruption neither loses nor sets back to 0."""

import contextlib
import json
import pathlib
import threading
import time
from collections.abc import Iterator

from vision.support.files import write_json

PERIOD = 10.0  # seconds of which a kill loses the count, at most


@contextlib.contextmanager
def counted(file: pathlib.Path) -> Iterator[None]:
    """Adds the minutes of a block to those that a file has, also while the block runs."""
    before = read_minutes(file)
    begun = time.monotonic()
    ended = threading.Event()

    def note() -> None:
        is_over = False
        while not is_over:
            is_over = ended.wait(PERIOD)
            write_json(file, {"minutes": before + (time.monotonic() - begun) / 60})

    file.parent.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=note, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def read_minutes(file: pathlib.Path) -> float:
    """Returns the minutes in a file that `counted` has written; 0 if there is none."""
    return float(json.loads(file.read_text())["minutes"]) if file.is_file() else 0.0
