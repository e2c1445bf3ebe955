"""Requests for the tests of parts."""

import pathlib

from tests.support.search_command import REPOSITORY, SPACE
from vision.config import default
from vision.search.request import Request


def request(out, **changes) -> Request:
    """A search of one trial of the tests' space; `changes` are attributes."""
    values = {
        "values": default().to_dict(),
        "spec": str(REPOSITORY / "configs/digits.py"),
        "command": "python -m vision.search",
        "space": SPACE,
        "trials": 1,
        "workers": 1,
        "storage": "",
        "name": "study",
        "sampler": "tpe",
        "pruner": "none",
        "grace": 0.1,
        "objectives": {"val/accuracy": "max"},
        "repeat": 0,
        "seeds": (),
        "seed": 0,
        "retry": False,
        "out": pathlib.Path(out),
    }
    return Request(**(values | changes))
