"""One evaluation of the tiny run, for all tests that look at what it writes."""

import shutil

import pytest

from vision import cli
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
    try:
        cli.run(
            command.main,
            [*map(str, argv), *(f"--config.evaluation.{k}={v}" for k, v in keys.items())],
        )
    except SystemExit as error:
        return error.code
    return 0


@pytest.fixture(scope="session")
def evaluated(tiny_run, tmp_path_factory):
    """A copy of the run that has been evaluated, with everything that can be measured."""
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("evaluated") / "run")
    assert evaluate("--workdir", run, **LITTLE) == 0
    return run
