"""The inspection case's bookkeeping: what a stopped call leaves. The whole case: tests/slow."""

import contextlib
import json
import pathlib

import pytest

from experiments.steel_defects import case
from experiments.steel_defects.case import NEW, OLD, SIZES, Case


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
