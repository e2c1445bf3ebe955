"""Whose fault an error is, and numbers of a run that are not finite."""

import errno
import json
import math

import jax
import numpy as np
import optuna
import pytest

from tests.search.requests import request
from vision.errors import RunError, UserError
from vision.search.failures import forget_logged, is_unexpected, log_unexpected, reason_of
from vision.search.output import write_results
from vision.search.queue import DIED
from vision.search.results import read_results, uncounted
from vision.search.storage import open_storage
from vision.search.study import open_search
from vision.search.trial import measures


def caused(error, cause):
    """Returns an error as `raise error from cause` makes it."""
    try:
        raise error from cause
    except type(error) as raised:
        return raised


FULL = OSError(errno.ENOSPC, "No space left on device", "x")
HIDDEN = PermissionError(errno.EACCES, "Permission denied", "x")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("model.width is wrong\nmore"), "model.width is wrong"),
        (RunError("step 3: loss nan"), "step 3: loss nan"),
        (MemoryError("Unable to allocate 9 TiB"), "out of memory: Unable to allocate 9 TiB"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: CUDA_ERROR_OUT_OF_MEMORY"),
            "out of memory: RESOURCE_EXHAUSTED: CUDA_ERROR_OUT_OF_MEMORY",
        ),
        (
            jax.errors.JaxRuntimeError("INVALID_ARGUMENT: a filter of 0"),
            "JaxRuntimeError: INVALID_ARGUMENT: a filter of 0",
        ),
        (KeyError("width"), "KeyError: 'width'"),
        (caused(UserError("cannot read photos"), HIDDEN), "cannot read photos"),
        # The machine's:
        (FULL, ""),
        (ConnectionResetError(errno.ECONNRESET, "reset"), ""),
        (caused(RunError("cannot write a checkpoint"), FULL), ""),
        (caused(RunError("cannot write a checkpoint"), HIDDEN), ""),
        (caused(UserError("cannot write to --workdir"), FULL), ""),
        (jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS"), ""),
    ],
)
def test_whose_fault_an_error_is(error, reason, capsys, tmp_path):
    assert reason_of(error) == reason
    assert is_unexpected(error) == reason.startswith(("JaxRuntimeError", "KeyError"))
    log_unexpected(error, "network c4", tmp_path)
    logged = [path.read_text() for path in tmp_path.glob("failures.txt")]
    assert len(logged) == is_unexpected(error)
    assert all(f"{type(error).__name__}: " in text and "network c4" in text for text in logged)
    assert capsys.readouterr() == ("", "")


def test_the_log_has_the_last_failure_of_each_network(tmp_path):
    log = tmp_path / "failures.txt"
    log.write_text("network of an older version\nTraceback (most recent call last):\nold\n")
    for name in ("a", "b"):
        log_unexpected(KeyError(name), f"network {name}", tmp_path)
    text = log.read_text()
    assert text.index("network a") < text.index("KeyError: 'a'") < text.index("KeyError: 'b'")
    assert "older version" not in text
    log_unexpected(ValueError("== once \udcff more"), "network a", tmp_path)
    text = log.read_text()
    assert "KeyError: 'a'" not in text and "once" in text and "KeyError: 'b'" in text
    log_unexpected(UserError("explains itself"), "network b", tmp_path)
    assert "network b" not in log.read_text()
    log_unexpected(RuntimeError("again"), "network a", tmp_path)
    assert "once" not in log.read_text() and "RuntimeError: again" in log.read_text()
    forget_logged(["network b"], tmp_path)
    assert log.read_text() == "== network a\nRuntimeError: again\n"
    forget_logged(["network a"], tmp_path)
    assert not log.exists()


def study(tmp_path, **changes):
    """Returns (request, storage, job) of a study whose trials wait."""
    made = request(tmp_path, **changes)
    storage = open_storage("", tmp_path)
    job = open_search(made, storage)
    job.queue.fill()
    return made, storage, job


def write_run(tmp_path, place, lines):
    directory = tmp_path / "trials" / f"{place:04d}"
    directory.mkdir(parents=True)
    text = "\n".join(map(json.dumps, lines))
    (directory / "metrics.jsonl").write_text(text + "\n")
    return directory


@pytest.mark.parametrize(
    ("how", "killed"), [(DIED, 1), ("interrupted", 0), ("its directory was in use", 0)]
)
def test_only_killed_workers_had_to_repeat_work(how, killed, tmp_path):
    made, storage, job = study(tmp_path)
    sampler = optuna.samplers.RandomSampler()
    _, number = job.queue.claim(sampler, optuna.pruners.NopPruner())
    assert job.queue.give_up(number, how)
    results = read_results(made, storage, job)
    assert (results.lost, results.killed) == (1, killed)
    assert bool(uncounted(results)) == bool(killed)


LINES = [
    {"step": 2, "val/accuracy": None, "val/loss": None},
    {"step": 4, "val/accuracy": 0.5, "val/loss": None},
]


def test_a_measure_that_is_not_finite_is_nan(tmp_path):
    made, _, job = study(tmp_path)
    directory = write_run(tmp_path, 0, LINES)
    result = {"best_step": 4, "parameters": {"all": 7}, "train_seconds": 1.0, "steps": 4}
    values = measures(job, made.config, directory, result)
    assert values["val/accuracy"] == 0.5
    assert math.isnan(values["val/loss"])


@pytest.mark.parametrize(
    ("lines", "curve"),
    [
        (LINES, ((100.0, 0.5),)),
        (
            [
                {"step": 2, "val/accuracy": 0.5},
                {"step": 4, "val/accuracy": None},
                {"step": 4, "train/loss": 1.0},
            ],
            ((50.0, 0.5),),
        ),
    ],
    ids=["first", "last"],
)
def test_a_validation_that_was_not_finite_is_in_no_curve(lines, curve, tmp_path):
    """Of several objectives the curve comes from the run; of one, from what was reported."""
    objectives = {"val/accuracy": "max", "parameters": "min"}
    made, storage, job = study(tmp_path, trials=2, objectives=objectives)
    for place in range(2):
        write_run(tmp_path, place, lines)
    loaded = optuna.load_study(study_name="study", storage=storage)
    for trial in job.queue.trials():
        storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.RUNNING)
        running = optuna.trial.Trial(loaded, trial._trial_id)
        job.space.apply(running, made.config)
        loaded.tell(running, [0.5, 7.0])
    results = read_results(made, storage, job)
    assert [row.curve for row in results.rows] == 2 * [curve]
    write_results(results, job)
    assert (tmp_path / "report.html").is_file()


def test_reports_that_were_not_finite_are_in_no_curve(tmp_path):
    made, storage, job = study(tmp_path)
    (waiting,) = job.queue.trials()
    storage.set_trial_state_values(waiting._trial_id, optuna.trial.TrialState.RUNNING)
    loaded = optuna.load_study(study_name="study", storage=storage)
    trial = optuna.trial.Trial(loaded, waiting._trial_id)
    job.space.apply(trial, made.config)
    for percent, value in ((50, 0.25), (100, np.nan)):
        trial.report(value, percent)
    loaded.tell(trial, state=optuna.trial.TrialState.PRUNED)
    (row,) = read_results(made, storage, job).rows
    assert row.curve == ((50.0, 0.25),)
    assert row.values == (0.25,)
