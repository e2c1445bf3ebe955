"""A trained supernet of 32 networks on digits of 8 pixels."""

import json

import pytest

from tests.objectives.runs import small
from vision import cli
from vision.training.run import run

SPACE = "c4-w4.8d1.2k3.5e2.3se0.1-h8"


def call(command, *argv):
    """Runs a command; returns the lines that it showed."""
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "show", lambda *texts: lines.extend(texts))
        cli.run(command.main, list(map(str, argv)))
    return lines


def settings(variant=SPACE):
    c = small()
    c.model.name = "mobile_space"
    c.model.variant = variant
    c.augment.affine = False
    c.train.steps = 6
    c.train.eval_every = 3
    return c


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """A config file of the space on digits."""
    folder = tmp_path_factory.mktemp("config")
    file = folder / "space.py"
    (folder / "values.json").write_text(json.dumps(settings().to_dict()))
    file.write_text(
        "import json, pathlib\nfrom vision.config.load import from_dict\n"
        "def get_config():\n"
        "    text = pathlib.Path(__file__).with_name('values.json').read_text()\n"
        "    return from_dict(json.loads(text))\n"
    )
    return file


@pytest.fixture(scope="session")
def supernet(tmp_path_factory):
    """The directory of the run."""
    c = settings()
    c.objective.name = "supernet"
    c.objective.options.drawn = 1
    workdir = tmp_path_factory.mktemp("supernet") / "run"
    assert run(c, workdir)["ended"] == "finished"
    return workdir
