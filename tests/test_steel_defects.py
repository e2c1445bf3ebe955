"""The inspection case's bookkeeping: what a stopped call leaves. The whole case: tests/slow."""

import contextlib
import json
import pathlib
import time

import pytest

from experiments.steel_defects import case, minutes, run
from experiments.steel_defects.case import NEW, OLD, SIZES, Case
from tests.support.commands import refusal


@pytest.fixture
def small(tmp_path):
    """The case in an empty directory."""
    return Case(tmp_path / "neu_det.tar", tmp_path / "work", SIZES["smoke"])


class Stopped(Exception):
    """Ends a stage where a test has seen enough."""


def test_a_command_is_done_once_its_last_file_is_there(small, monkeypatch):
    """Many commands make --out before they begin: a kill leaves that directory."""
    outputs = []

    def call(module, *words, output=None, **_):
        """A command that was killed after it had made its directory, and is then given again."""
        for word in words:
            flag, _, value = word.partition("=")
            if flag in ("--out", "--workdir"):
                pathlib.Path(value).mkdir(parents=True, exist_ok=True)
                pathlib.Path(value, ".lock").touch()
        assert not output.exists(), f"{module} would be skipped: {output}"
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("{}")
        outputs.append(output)

    monkeypatch.setattr(case, "call", call)
    for stage in (small.audit, small.train, small.evaluate, small.audit_again, small.compress):
        stage()
    assert len(outputs) == len(set(outputs)) > 10
    assert {output.suffix for output in outputs} == {".json"}


def test_traffic_is_counted_once(small, monkeypatch):
    """What stopped attempts have logged and labeled is gone before the server starts."""

    @contextlib.contextmanager
    def serving(models, log):
        left = [name for name in ("log", "rollout", "labels") if (small.folder / name).exists()]
        weights = json.loads((models / "steel" / "traffic.json").read_text())["weights"]
        raise Stopped(left, weights)
        yield

    monkeypatch.setattr(case, "call", lambda *words, **options: 0)
    monkeypatch.setattr(case, "serving", serving)
    small.bundle(OLD).mkdir(parents=True)

    def attempt():
        for name in ("log", "rollout", "labels"):
            (small.folder / name).mkdir(exist_ok=True)
        (small.models / "steel" / "traffic.json").write_text(
            json.dumps({"weights": {OLD: 50, NEW: 50}})
        )
        with pytest.raises(Stopped) as stopped:
            small.watch()
        return stopped.value.args

    assert attempt() == ([], {OLD: 100})
    small.stage("traffic", dict)
    assert attempt() == (["log"], {OLD: 100})
    small.stage("rollout", dict)
    assert attempt() == (["log", "rollout", "labels"], {OLD: 50, NEW: 50})


def test_minutes_are_those_of_all_attempts(small, monkeypatch):
    """A stage that is stopped goes on counting; a kill, which ends no block, loses a period."""
    monkeypatch.setattr(minutes, "PERIOD", 0.01)
    file = small.folder / "stages" / "audit.time"

    def stopped():
        time.sleep(0.5)
        assert minutes.read_minutes(file) > 0.3 / 60  # what a kill would leave now
        raise Stopped

    for _ in range(2):
        with pytest.raises(Stopped):
            small.stage("audit", stopped)
    assert small.minutes == {}
    assert small.stage("audit", lambda: time.sleep(0.5)) is None
    assert small.minutes["audit"] == pytest.approx(minutes.read_minutes(file), abs=0.005)
    assert minutes.read_minutes(file) > 1.5 / 60
    # The parts of a finished stage too, of which a later call runs none.
    small.stage("watch", lambda: small.stage("drift", dict))
    again = Case(small.tar, small.folder, small.size)
    assert list(again.minutes) == ["audit", "drift", "watch"]


def test_sizes_do_not_mix(small, capsys):
    small.begin()
    small.begin()
    words = (small.tar, f"--workdir={small.folder}")
    assert "has stages of another size" in refusal(run.main, capsys, *words)
    (small.folder / "size.json").unlink()
    small.stage("drift", dict)  # as an earlier version of the script left it
    assert "has stages of another size" in refusal(run.main, capsys, *words, "--size=smoke")
    message = refusal(run.main, capsys, *words, "--size=smoke", "--record")
    assert message.startswith("--record needs --size full, got smoke")
