"""A run directory and its config, as a training gives them to a tracker."""

import pytest

from vision.config import default
from vision.support.files import write_json
from vision.training.trackers import tracking as module


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """A function that returns the `Tracking` of a tracker's run; messages are in its `lines`."""
    # a busy machine is not a server that hangs
    monkeypatch.setattr(module, "SHORT_PATIENCE", 600.0)
    workdir = tmp_path / "pets"
    workdir.mkdir()
    write_json(workdir / "config.json", {"seed": 3})
    write_json(workdir / "result.json", {"accuracy": 0.5})

    def tracking(name, patience=600.0, **options):
        config = default()
        config.seed = 3
        config.log.tracker = name
        for key, value in options.items():
            config.log.tracker_options[key] = value
        return module.Tracking(name, workdir, config, lines.append, patience)

    lines = []
    tracking.lines = lines
    tracking.workdir = workdir
    return tracking
