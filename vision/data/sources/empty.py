"""The classes of a run or a bundle, without images: `empty:RUN + folder:new`.

A training that goes on from a run whose images are gone has the run's classes still.
"""

from pathlib import Path

import numpy as np

from vision.data.findings import Finding
from vision.errors import UserError
from vision.support.reading import read_json
from vision.support.schema import filled

FILES = ("data.json", "bundle.json")


class EmptySource:
    """Classes without images.

    Args:
        classes: the class names.
    """

    def __init__(self, classes: list[str]):
        self.classes = tuple(classes)
        self.encoded = False
        self.findings: tuple[Finding, ...] = ()
        self.labels = np.zeros(0, np.int32)

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> dict:
        raise IndexError(index)

    def name(self, index: int) -> str:
        raise IndexError(index)

    def file(self, index: int) -> bytes | None:
        raise IndexError(index)


def open(argument: str) -> dict[str, EmptySource]:
    """Reads the class names of a run or a bundle.

    Args:
        argument: its directory.

    Raises:
        UserError: it is neither.
    """
    for name in FILES:
        file = Path(argument).expanduser() / name
        if file.is_file():
            values = read_json(file, {"classes": filled(str)}, "give another directory")
            return {"all": EmptySource(values["classes"])}
    raise UserError(
        f"empty:{argument} is neither a run nor a bundle: it has no {' and no '.join(FILES)}"
    )
