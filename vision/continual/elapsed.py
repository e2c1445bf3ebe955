"""The time that a sequence of tasks has taken, over all calls of its command."""

import pathlib
import time

from vision import parallel
from vision.support.files import write_json
from vision.support.reading import read_json

FILE = "elapsed.json"  # {"seconds": float} in the directory of the sequence
RESULT = "sequence.json"  # has the seconds too, and of sequences of earlier code, only it


class Elapsed:
    """Counts the seconds from now on, and adds those of earlier calls.

    Args:
        directory: of the sequence.

    Raises:
        UserError: the file of earlier calls is damaged.
    """

    def __init__(self, directory: pathlib.Path):
        self._file = directory / FILE
        self._before = 0.0
        files = [file for file in (self._file, directory / RESULT) if file.is_file()]
        if files:
            self._before = read_json(files[0], {"seconds": float}, "remove it")["seconds"]
        self._began = time.perf_counter()

    @property
    def before(self) -> float:
        """Seconds of the earlier calls."""
        return self._before

    def save(self) -> float:
        """Writes the seconds so far; returns them."""
        seconds = self._before + time.perf_counter() - self._began
        if parallel.is_main_process():
            write_json(self._file, {"seconds": seconds})
        return seconds
