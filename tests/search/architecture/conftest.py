"""A trained supernet of 32 networks on digits of 8 pixels."""

import pytest

from tests.objectives.runs import small
from vision.training.run import run

SPACE = "c4-w4.8d1.2k3.5e2.3se0.1-h8"


def settings(variant=SPACE):
    c = small()
    c.model.name = "mobile_space"
    c.model.variant = variant
    c.augment.affine = False
    c.train.steps = 6
    c.train.eval_every = 3
    return c


@pytest.fixture(scope="session")
def supernet(tmp_path_factory):
    """The directory of the run."""
    c = settings()
    c.objective.name = "supernet"
    c.objective.options.drawn = 1
    workdir = tmp_path_factory.mktemp("supernet") / "run"
    assert run(c, workdir)["ended"] == "finished"
    return workdir
