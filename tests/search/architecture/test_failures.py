"""Networks that cannot be judged: they are left out, unless all are."""

import errno
import json

import jax
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


@pytest.mark.parametrize(("trials", "failed"), [(30, 20), (3, 3)])
def test_a_search_that_cannot_succeed_stops_and_starts_again(trials, failed, tmp_path):
    with pytest.raises(RunError) as error:
        search(tmp_path, {"": UserError("no such folder")}, "tpe", trials, budget=1e9)
    message = f"the first {failed} networks have all failed, the last with: no such folder"
    assert message in str(error.value)
    assert json.loads((tmp_path / "search.json").read_text())["rows"] == {}
    rows, _ = search(tmp_path, {}, "tpe", trials, budget=1e9)
    assert rows and all("accuracy" in row for row in rows.values())


def test_what_the_machine_refuses_is_no_networks_fault(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        search(tmp_path, {"": full}, budget=1e9)
    assert not (tmp_path / "search.json").exists()
