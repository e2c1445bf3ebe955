"""One evaluation of the tiny run, for all tests that look at what it writes."""

import shutil

import pytest

from tests.support.commands import exit_code
from vision.evaluation import __main__ as command

LITTLE = {
    "sample": 8,
    "bootstrap": 60,
    "map": "pca",
    "probe": 40,
    "slice_images": 4,
    "examples": 1,
    "positive": "3",
}


def evaluate(*argv, **keys):
    """Runs `python -m vision.evaluation`; returns its exit code. Keys are of config.evaluation."""
    flags = (f"--config.evaluation.{key}={value}" for key, value in keys.items())
    return exit_code(command.main, *argv, *flags)


@pytest.fixture(scope="session")
def evaluated(tiny_run, tmp_path_factory):
    """A copy of the run that has been evaluated, with everything that can be measured."""
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("evaluated") / "run")
    assert evaluate("--workdir", run, **LITTLE) == 0
    return run
