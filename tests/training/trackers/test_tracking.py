"""A tracker never ends a training, whatever becomes of it."""

import contextlib
import json
import sys
import threading
import time
import types

import pytest

from tests.conftest import REPOSITORY
from tests.support.commands import outcome, refusal
from vision import distributed, main, parallel
from vision.config import default
from vision.run.checkpoints import Checkpoints
from vision.training import run
from vision.training.log import RunLog
from vision.training.trackers import tracking as module

CONFIG = ("--config", f"{REPOSITORY}/configs/digits.py:smoke")


@pytest.fixture
def tracker(monkeypatch):
    """A tracker of this test in the place of MLflow's: its calls, and what it does in them."""
    state = types.SimpleNamespace(calls=[], act=lambda: None)

    class Recorder:
        def scalars(self, step, scalars):
            state.act()
            state.calls.append((step, scalars))

        def finish(self, scalars, files):
            state.calls.append((scalars, [file.name for file in files]))

        def stop(self, failed):
            state.calls.append(failed)

    def opened(run):
        state.run = run
        if not run.id:
            run.keep_id("7")
        return Recorder()

    name = "vision.training.trackers.mlflow"
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(open=opened))
    return state


def test_everything_comes_in_order(begin, tracker):
    with begin("mlflow") as tracking:
        for step in range(100):
            tracking.scalars(step, {"train/loss": step, "train/x": float("inf")})
        tracking.finish({"accuracy": 0.5})
    assert tracker.calls[:-1] == [(step, {"train/loss": step}) for step in range(100)]
    assert tracker.calls[-1] == ({"test/accuracy": 0.5}, ["config.json", "result.json"])
    assert tracker.run.id == "" and tracker.run.name == "pets" and begin.lines == []
    kept = json.loads((begin.workdir / "tracker.json").read_text())
    assert kept == {"mlflow": "7", "finished": ["mlflow"]}
    assert not module.awaits_end(begin.workdir, "mlflow")
    with begin("mlflow") as tracking:  # for example, as its result.json was removed
        tracking.scalars(100, {"train/loss": 1.0})
    assert module.awaits_end(begin.workdir, "mlflow")
    assert tracker.run.id == "7" and tracker.calls[-1] is False


def test_a_training_that_is_refused_begins_no_run(begin, tracker):
    with begin("mlflow"):
        pass
    assert tracker.calls == [] and not (begin.workdir / "tracker.json").exists()


def test_one_line_is_printed_if_the_tracker_fails(begin, tracker):
    def fail():
        raise ConnectionError("the server is down")

    tracker.act = fail
    with begin("mlflow") as tracking:
        for step in range(3):
            tracking.scalars(step, {"train/loss": 1.0})
        tracking.finish({"accuracy": 0.5})
    (line,) = begin.lines
    assert line.startswith("note: mlflow no longer follows this run: ")
    assert "the server is down" in line and tracker.calls == []


def test_credentials_in_a_message_of_the_library_are_left_out(begin, tracker):
    def fail():
        raise ConnectionError("request to https://me:geheim@host:5000/api failed, at 10:30 by a@b")

    tracker.act = fail
    with begin("mlflow") as tracking:
        tracking.scalars(1, {"train/loss": 1.0})
        tracking.finish({})
    (line,) = begin.lines
    assert "request to https://host:5000/api failed, at 10:30 by a@b" in line


def test_nothing_is_kept_for_a_tracker_that_has_failed(begin, tracker):
    def fail():
        raise ConnectionError

    tracker.act = fail
    with begin("mlflow") as tracking:
        tracking.scalars(0, {"train/loss": 1.0})
        tracking._thread.join(60)
        for step in range(1, 100):
            tracking.scalars(step, {"train/loss": 1.0})
        assert tracking._tasks.qsize() == 0
        tracking.finish({})
    assert len(begin.lines) == 1


def test_the_backlog_of_a_slow_tracker_is_bounded(begin, tracker, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_BACKLOG", 5)
    takes_one = threading.Event()
    goes_on = threading.Event()

    def wait():
        takes_one.set()
        goes_on.wait(60)

    tracker.act = wait
    with begin("mlflow") as tracking:
        tracking.scalars(0, {"train/loss": 1.0})
        assert takes_one.wait(60)
        for step in range(1, 100):
            tracking.scalars(step, {"train/loss": 1.0})
        goes_on.set()
        tracking.finish({"accuracy": 0.5})
    assert [call[0] for call in tracker.calls[:-1]] == [0, 1, 2, 3, 4, 5]
    assert tracker.calls[-1][0] == {"test/accuracy": 0.5}
    assert begin.lines == [
        "note: mlflow is 5 reports behind: values from step 6 on are left out there; "
        f"{begin.workdir} has all numbers"
    ]


def test_a_tracker_that_gets_on_slowly_is_not_waited_for_without_end(begin, tracker):
    tracker.act = lambda: time.sleep(0.2)
    started = time.monotonic()
    with begin("mlflow", patience=1.0) as tracking:
        for step in range(100):  # 20 s of work, each piece of it well below the patience
            tracking.scalars(step, {"train/loss": 1.0})
        tracking.finish({"accuracy": 0.5})
    assert time.monotonic() - started < 10
    (line,) = begin.lines
    assert line.startswith("note: mlflow has not taken everything within 1 s: ")
    assert module.awaits_end(begin.workdir, "mlflow")


@pytest.mark.parametrize("is_alone", [True, False])
def test_other_processes_do_not_wait_for_a_tracker_too_long(is_alone, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "is_single_process", lambda: is_alone)
    monkeypatch.setattr(
        module, "Tracking", lambda *args: contextlib.nullcontext(types.SimpleNamespace(args=args))
    )
    config = default()
    config.log.tracker = "mlflow"
    with contextlib.ExitStack() as stack:
        *_, patience = run._track(config, tmp_path, print, stack).args
    if is_alone:
        assert patience == module.PATIENCE
    else:  # the curves are drawn and W&B ends within the rest
        assert patience + module.SHORT_PATIENCE <= distributed.SHUTDOWN_TIMEOUT / 2


def test_a_server_that_hangs_delays_only_the_end(begin, tracker):
    tracker.act = lambda: time.sleep(30)
    started = time.monotonic()
    with begin("mlflow", patience=0.5) as tracking:
        tracking.scalars(1, {"train/loss": 1.0})
        assert time.monotonic() - started < 5
        tracking.finish({"accuracy": 0.5})
    assert time.monotonic() - started < 20
    assert begin.lines == [
        "note: mlflow has not taken everything within 0.5 s: "
        f"{begin.workdir} has all numbers of this run"
    ]


def test_a_checkpoint_waits_for_what_was_reported_before(begin, tracker, tmp_path):
    tracker.act = lambda: time.sleep(0.05)
    with begin("mlflow") as tracking:
        tracking.settle()  # nothing has begun
        log = RunLog(tmp_path, default().log, 0, 20, tracking=tracking)
        with log:
            for step in range(1, 21):
                log.scalars(step, {"train/loss": float(step)})
            log.settle()
            assert [step for step, _ in tracker.calls] == list(range(1, 21))
            assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 20
    assert begin.lines == []


def test_only_one_checkpoint_waits_for_a_server_that_hangs(begin, tracker, monkeypatch):
    goes_on = threading.Event()
    tracker.act = lambda: goes_on.wait(60)
    with begin("mlflow") as tracking:
        tracking.scalars(1, {"train/loss": 1.0})
        monkeypatch.setattr(module, "SHORT_PATIENCE", 0.5)
        for _ in range(3):
            started = time.monotonic()
            tracking.settle()
            waited = time.monotonic() - started
        assert waited < 0.4
        (line,) = begin.lines
        assert line.startswith("note: mlflow is more than 0.5 s behind a checkpoint: if this run ")
        goes_on.set()
        monkeypatch.setattr(module, "SHORT_PATIENCE", 600.0)
        assert tracking._settled.wait(60)
        tracking.scalars(2, {"train/loss": 1.0})
        tracking.settle()
        assert [step for step, _ in tracker.calls] == [1, 2]


def test_a_checkpoint_does_not_wait_for_a_tracker_that_fails(begin, tracker):
    def fail():
        time.sleep(0.5)
        raise ConnectionError

    tracker.act = fail
    with begin("mlflow") as tracking:
        tracking.scalars(1, {"train/loss": 1.0})
        started = time.monotonic()
        tracking.settle()  # the patience is ten minutes here
        tracking.settle()
        assert time.monotonic() - started < 60
    assert len(begin.lines) == 1


def test_a_library_that_cannot_be_imported_is_a_line(begin, monkeypatch):
    monkeypatch.setitem(sys.modules, "vision.training.trackers.mlflow", None)
    with begin("mlflow") as tracking:
        tracking.scalars(1, {"train/loss": 1.0})
        assert tracking._tasks.qsize() == 0
        tracking.finish({})
    (line,) = begin.lines
    assert line.startswith("note: mlflow no longer follows this run: ")


def test_a_training_reports_what_its_log_has(tracker, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vision.config.trackers.require", lambda *args, **kwargs: None)
    tracker.act = lambda: time.sleep(0.3)  # it is behind at each checkpoint, if none waits
    save = Checkpoints.save

    def save_and_look(checkpoints, *args):
        written = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        saved.append((len(written), len(tracker.calls)))
        save(checkpoints, *args)

    saved = []
    monkeypatch.setattr(Checkpoints, "save", save_and_look)
    flags = {
        "model.name": "mlp",
        "model.variant": "mu",
        "model.batch_norm_groups": None,
        "model.stochastic_depth": None,
        "parallel.devices": 1,
        "log.tensorboard": False,
        "log.tracker": "mlflow",
        "log.tracker_options.experiment": "digits",
    }
    argv = [f"--config.{key}={value}" for key, value in flags.items()]
    code, _, err = outcome(main.main, capsys, *CONFIG, f"--workdir={tmp_path}/run", *argv)
    assert code == 0, err
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    logged = [(line.pop("step"), line) for line in lines]
    assert tracker.calls[:-1] == logged and len(logged) > 1
    assert saved and all(written == reported > 0 for written, reported in saved)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    scalars, files = tracker.calls[-1]
    assert scalars["test/accuracy"] == pytest.approx(result["accuracy"])
    assert files == ["config.json", "result.json", "curves.png"]
    assert tracker.run.options["experiment"] == "digits"

    # A kill between result.json and the report of the end is made up for, once.
    last = tracker.calls[-1]
    kept = tmp_path / "run" / "tracker.json"
    assert json.loads(kept.read_text()) == {"mlflow": "7", "finished": ["mlflow"]}
    for begun, reported in [({"mlflow": "7"}, [last]), (None, []), ({"wandb": "8"}, [])]:
        if begun is not None:
            kept.write_text(json.dumps(begun))
        tracker.calls.clear()
        code, out, err = outcome(main.main, capsys, *CONFIG, f"--workdir={tmp_path}/run", *argv)
        assert code == 0 and "finished already" in out, err
        assert tracker.calls == reported
        if reported:
            assert tracker.run.id == "7" and tracker.run.values["data.source"] == "digits"
            assert json.loads(kept.read_text())["finished"] == ["mlflow"]


SECRET = "must not contain credentials, because config.json would store them: set MLFLOW_TRACK"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("tracker=mflow",), "did you mean 'mlflow'?"),
        (("tracker_options.project=a",), "log.tracker_options.project needs log.tracker"),
        (("tracker=wandb", "tracker_options.uri=a"), "log.tracker_options = 'uri' is unknown"),
        (("tracker=wandb", "tracker_options.mode=ofline"), "did you mean 'offline'?"),
        (("tracker=wandb", "tracker_options.mode=1"), "must be of type str"),
        (("tracker=mlflow", "tracker_options.uri=http://me:geheim@host:5000"), SECRET),
        (("tracker=mlflow", "tracker_options.uri=postgresql://me:geheim@host/mlflow"), SECRET),
    ],
)
def test_mistakes_are_found_before_any_work(flags, words, tmp_path, capsys):
    argv = [f"--config.log.{flag}" for flag in flags]
    message = refusal(main.main, capsys, *CONFIG, f"--workdir={tmp_path}/run", *argv)
    assert words in message and "geheim" not in message
    assert not (tmp_path / "run").exists()
