"""Networks that cannot be judged: they are left out, unless all are."""

import errno
import json
import re

import jax
import numpy as np
import pytest

from tests.search.architecture.conftest import SPACE, settings
from vision.errors import RunError, UserError
from vision.models.layers.variants import parse, spell
from vision.search.architecture.candidates import Candidates
from vision.search.architecture.costs import Task, count
from vision.search.architecture.search import Plan, Search

TASK = Task(settings(), tuple("0123456789"), 8, 1)
LARGE = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")


class Simulated:
    """Networks whose accuracy follows from their size; some raise an error instead.

    Args:
        errors: {the first part of a name that fails: what it raises}.
    """

    task = TASK
    space = parse(SPACE)
    title = "simulated"

    def __init__(self, errors):
        self.errors = errors

    def accuracy(self, choice):
        for part, error in self.errors.items():
            if part in spell(choice):
                raise error
        return 1 - 1e3 / count(choice, TASK)

    def sample(self, number):
        return np.zeros((number, 8, 8, 1), np.float32), np.zeros(number, np.int32)


def search(out, errors, sampler="evolution", trials=30, **plan):
    lines = []
    candidates = Candidates(out, {"cost": "macs"})
    plan = Plan(trials=trials, sampler=sampler, population=4, **plan)
    networks = Simulated(errors)
    Search(networks, candidates, lambda c: count(c, TASK), plan, lines.append).run()
    return candidates.rows, lines


@pytest.mark.parametrize(("sampler", "budget"), [("evolution", 1e9), ("tpe", 1e9), ("nsga2", None)])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LARGE, "out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
        (MemoryError(), "out of memory: MemoryError"),
        (UserError("image_size does not fit"), "image_size does not fit"),
        (RunError("loss nan"), "loss nan"),
    ],
    ids=["device", "host", "config", "loss"],
)
def test_one_that_fails_is_left_out(sampler, budget, error, reason, tmp_path):
    rows, lines = search(tmp_path, {"k5": error}, sampler, budget=budget)
    failed = {name for name, row in rows.items() if "skipped" in row}
    assert failed and failed == {name for name in rows if "k5" in name}
    assert {rows[name]["skipped"] for name in failed} == {f"failed: {reason}"}
    assert sum("failed:" in line for line in lines) == len(failed)
    again, lines = search(tmp_path, {"k5": AssertionError()}, sampler, budget=budget)
    assert again == rows and not lines


@pytest.mark.parametrize(
    ("trials", "message"),
    [(30, "the first 20 networks have all failed"), (3, "no network could be judged: 3 failed")],
)
def test_a_search_that_cannot_succeed_stops_and_starts_again(trials, message, tmp_path):
    with pytest.raises(RunError) as error:
        search(tmp_path, {"": UserError("no such folder")}, "tpe", trials, budget=1e9)
    assert f"{message}, the last with: no such folder\nFix this" in str(error.value)
    assert json.loads((tmp_path / "search.json").read_text())["rows"] == {}
    rows, _ = search(tmp_path, {}, "tpe", trials, budget=1e9)
    assert rows and all("accuracy" in row for row in rows.values())


def test_networks_that_a_score_skips_are_no_failures(tmp_path, monkeypatch):
    """Of 32, those with a small kernel score too low, and the others fail."""
    monkeypatch.setattr(Search, "_score", lambda self, choice: float("k5" in spell(choice)))
    with pytest.raises(RunError) as error:
        search(tmp_path, {"k5": KeyError("k")}, "tpe", 8, budget=1e9, score="synflow", keep=0.1)
    message = re.fullmatch(
        r"no network could be judged: (\d+) failed, the last with: KeyError: 'k'; (\d+) skipped "
        "by --score\nFix this, and run the same command again",
        str(error.value),
    )
    failed, skipped = map(int, message.groups())
    assert failed and skipped and failed + skipped == 8
    rows = json.loads((tmp_path / "search.json").read_text())["rows"]
    assert len(rows) == skipped and all("score" in row for row in rows.values())
    log = (tmp_path / "failures.txt").read_text()
    assert log.count("Traceback") == failed and "KeyError: 'k'" in log


def test_a_score_that_no_network_gets_says_why(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyError("k")

    monkeypatch.setattr(Search, "_score", fail)
    with pytest.raises(RunError, match="all of 2 networks failed, the last with: KeyError: 'k'\n"):
        search(tmp_path, {}, budget=1e9, score="synflow", scored=2)
    log = (tmp_path / "failures.txt").read_text()
    assert log.count("Traceback") == 2
    Candidates(tmp_path, {"cost": "macs"})  # the log does not keep the next search out


def test_failures_are_forgotten_to_be_retried(tmp_path):
    rows, _ = search(tmp_path, {"k5": LARGE}, budget=1e9)
    failed = {name for name, row in rows.items() if "skipped" in row}
    candidates = Candidates(tmp_path, {"cost": "macs"})
    assert set(candidates.failures()) == failed
    candidates.forget_failures()
    again, lines = search(tmp_path, {}, budget=1e9)
    assert set(again) >= set(rows) - failed and all("accuracy" in row for row in again.values())
    assert len(lines) == len(again) - len(rows) + len(failed)


def test_a_network_that_ends_well_has_no_traceback_any_more(tmp_path):
    rows, _ = search(tmp_path, {"k5": KeyError("k")}, budget=1e9)
    failed = [name for name, row in rows.items() if "skipped" in row]
    log = tmp_path / "failures.txt"
    assert log.read_text().count("Traceback") == len(failed) > 0
    Candidates(tmp_path, {"cost": "macs"}).forget_failures()
    again, _ = search(tmp_path, {}, budget=1e9)
    left = log.read_text() if log.exists() else ""
    assert not any(f"== {name}\n" in left for name in again)
    assert left.count("Traceback") == len(set(failed) - set(again)) < len(failed)


def test_what_the_machine_refuses_is_no_networks_fault(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        search(tmp_path, {"": full}, budget=1e9)
    assert not (tmp_path / "search.json").exists()
