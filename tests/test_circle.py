"""What a stopped attempt at the circle leaves. All of the circle: tests/slow."""

import contextlib
import json

import pytest

from experiments.circle import run
from experiments.circle.canary import NEW, OLD
from experiments.circle.data import DATA
from vision.errors import RunError

LEFT = ("log", "rollout", "labels")


class Stopped(Exception):
    """Ends the circle when its server starts."""


@pytest.fixture
def circle(tmp_path, monkeypatch):
    """The circle on digits in an empty directory, in which nothing is trained or served."""
    digits = run.Circle(DATA["digits"], tmp_path)
    (digits.models / "digits").mkdir(parents=True)
    monkeypatch.setattr(run.Circle, "train", lambda circle: None)
    return digits


def test_traffic_is_counted_once(circle, monkeypatch):
    """What stopped attempts have logged and labeled is gone before the server starts."""
    file = circle.models / "digits" / "traffic.json"

    @contextlib.contextmanager
    def serving(models, log):
        left = [name for name in LEFT if (circle.folder / name).exists()]
        raise Stopped(left, json.loads(file.read_text())["weights"])
        yield

    monkeypatch.setattr(run, "serving", serving)

    def attempt():
        for name in LEFT:
            (circle.folder / name).mkdir(exist_ok=True)
        file.write_text(json.dumps({"weights": {OLD: 50, NEW: 50}}))
        with pytest.raises(Stopped) as stopped:
            run.go_round(circle)
        return stopped.value.args

    assert attempt() == ([], {OLD: 100})
    circle.served.write_text("{}")
    assert attempt() == (["log"], {OLD: 100})
    circle.asked.write_text("{}")
    assert attempt() == ([*LEFT], {OLD: 50, NEW: 50})


def test_a_finished_rollout_is_not_repeated(circle):
    record = {"status": "done", "reason": "", "answers": {OLD: 30, NEW: 12}, "failed": 1}
    circle.asked.write_text(json.dumps(record))
    assert circle.roll_out("http://nowhere") == {"rollout": "done", "answers": 42, "failed": 1}
    circle.asked.write_text(json.dumps(record | {"status": "rolled back", "reason": "too slow"}))
    with pytest.raises(RunError, match="the new model was rolled back: too slow"):
        circle.roll_out("http://nowhere")
