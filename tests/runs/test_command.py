"""`python -m vision.runs`: what the table says of runs, and which runs it shows."""

import csv
import io
import json
import statistics
import subprocess
import sys

import pytest

from tests.runs.made import make_run
from tests.support.commands import outcome, refusal
from vision.config import default
from vision.runs import __main__ as command
from vision.support.lock import locked


@pytest.fixture
def runs(tmp_path):
    """Three seeds of one config, another config, and a run that is not finished."""
    for seed, accuracy in enumerate((0.97, 0.98, 0.96)):
        make_run(tmp_path / f"vit-{seed}", accuracy, model__name="vit", seed=seed)
    make_run(tmp_path / "deep" / "resnet", 0.5, model__name="resnet", optimizer__learning_rate=0.1)
    make_run(tmp_path / "broken-off", model__name="resnet")
    return tmp_path


def read_csv(capsys, *argv):
    code, out, err = outcome(command.main, capsys, *argv, "--format", "csv")
    assert code == 0, err
    return {row["name"]: row for row in csv.DictReader(io.StringIO(out))}


def test_the_table_has_state_results_and_best_step(runs, capsys):
    rows = read_csv(capsys, runs)
    assert set(rows) == {"vit-0", "vit-1", "vit-2", "deep/resnet", "broken-off"}
    assert rows["vit-1"]["state"] == "finished" and float(rows["vit-1"]["accuracy"]) == 0.98
    assert rows["vit-1"]["best_step"] == "20" and float(rows["vit-1"]["val/accuracy"]) == 0.75
    row = rows["broken-off"]
    assert (row["state"], row["steps"], row["planned"]) == ("interrupted", "20", "40")
    code, out, _ = outcome(command.main, capsys, runs)
    line = next(line for line in out.splitlines() if line.startswith("vit-1"))
    assert code == 0 and "98.00 %" in line and "75.00 %" in line and "2026-11-30 12:00" in line


def test_a_real_run_is_read(tiny_run, capsys):
    (row,) = read_csv(capsys, tiny_run).values()
    result = json.loads((tiny_run / "result.json").read_text())
    assert float(row["accuracy"]) == result["accuracy"]
    assert int(row["best_step"]) == result["best_step"]
    assert (row["model"], row["data"], row["state"]) == ("vit mu/4", "digits", "finished")


def test_a_run_whose_directory_is_locked_is_running(runs, capsys):
    with locked(runs / "broken-off", "--workdir"):
        assert read_csv(capsys, runs)["broken-off"]["state"] == "running"
    assert read_csv(capsys, runs)["broken-off"]["state"] == "interrupted"


def test_conditions_select(runs, capsys):
    assert set(read_csv(capsys, runs, "--filter", "model.name=resnet")) == {
        "deep/resnet",
        "broken-off",
    }
    assert set(read_csv(capsys, runs, "--filter", "accuracy>=0.97", "--filter", "seed!=0")) == {
        "vit-1"
    }
    assert set(read_csv(capsys, runs, "--filter", "name~DEEP")) == {"deep/resnet"}
    assert set(read_csv(capsys, runs, "--filter", "optimizer.learning_rate=1e-1")) == {
        "deep/resnet"
    }
    assert outcome(command.main, capsys, runs, "--filter", "seed>5")[:2] == (0, "no runs\n")


def test_conditions_that_mean_nothing_are_refused(runs, capsys):
    assert "did you mean 'accuracy'?" in refusal(
        command.main, capsys, runs, "--filter", "acuracy>1"
    )
    assert "KEY=VALUE" in refusal(command.main, capsys, runs, "--filter", "accuracy")
    assert "--sort" in refusal(command.main, capsys, runs, "--sort", "nothing")
    assert "which runs?" in refusal(command.main, capsys)


@pytest.mark.parametrize(
    "key",
    [
        *("accuracy", "macro_f1", "val/accuracy", "val/step", "train/loss", "seconds", "ended"),
        *("seed", "optimizer.learning_rate", "augment.mixup", "val/knn"),
    ],
)
def test_documented_keys_are_accepted_before_a_run_has_them(key, tmp_path, capsys):
    """The last is what an objective measures, and by what this run chooses its checkpoint."""
    make_run(tmp_path / "one", None, (), checkpoint__metric="val/knn")
    assert outcome(command.main, capsys, tmp_path, "--filter", f"{key}>1e9")[:2] == (0, "no runs\n")
    assert outcome(command.main, capsys, tmp_path, f"--sort=-{key}")[0] == 0


@pytest.mark.parametrize(
    ("flag", "other"),
    [
        *(("--diff", other) for other in ("--filter=seed=0", "--sort=seed", "--group", "--watch")),
        ("--diff", "--out=page"),
        *(("--watch", other) for other in ("--format=json", "--out=page", "--group")),
    ],
)
def test_flags_that_would_have_no_effect_are_refused(flag, other, runs, capsys):
    words = (runs / "vit-0", runs / "vit-1")
    message = refusal(command.main, capsys, *words, flag, other)
    assert f"{flag} and {other.partition('=')[0]} cannot be used together: leave one out" in message


def test_named_directories_must_exist(runs, capsys):
    missing = runs / "no-such-place"
    for flags in ((), ("--watch",), ("--format=csv",), ("--diff",)):
        message = refusal(command.main, capsys, runs, missing, *flags)
        assert message == f"there is no directory {missing}"
    file = runs / "vit-2" / "metrics.jsonl"
    assert f"{file} is a file: give a run" in refusal(command.main, capsys, file)


def test_runs_are_ordered_those_without_a_value_last(runs, capsys):
    names = list(read_csv(capsys, runs, "--sort=-accuracy"))
    assert names == ["vit-1", "vit-0", "vit-2", "deep/resnet", "broken-off"]
    assert list(read_csv(capsys, runs, "--sort", "accuracy"))[0] == "deep/resnet"


def test_seeds_are_grouped_with_their_deviation(runs, capsys):
    code, out, _ = outcome(command.main, capsys, runs, "--group", "--filter", "state=finished")
    values = [97.0, 98.0, 96.0]
    spread = f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} %"
    assert code == 0 and spread in out
    assert sorted(line.split()[0] for line in out.splitlines()[1:]) == ["1", "3"]


def test_differences_of_two_configs(runs, capsys):
    code, out, _ = outcome(command.main, capsys, "--diff", runs / "vit-0", runs / "deep" / "resnet")
    keys = [line.split()[0] for line in out.splitlines()]
    assert code == 0
    assert {"model.name", "optimizer.learning_rate"} <= set(keys) and "seed" not in keys
    assert "at least two" in refusal(command.main, capsys, "--diff", runs / "vit-0")


def test_broken_and_foreign_directories_say_why(runs, capsys):
    (runs / "foreign").mkdir()
    (runs / "foreign" / "config.json").write_text('{"hidden_size": 768}')
    (runs / "broken-off" / "config.json").write_text('{"seed": ')
    (runs / "vit-0" / "result.json").write_text("[]")
    with (runs / "vit-1" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 30, "val/\xff')
    (runs.parent / "empty").mkdir(exist_ok=True)
    rows = read_csv(capsys, runs, runs.parent / "empty")
    reasons = {name.removeprefix(f"{runs}/"): row["reason"] for name, row in rows.items()}
    assert reasons["foreign"] == "config.json is not the config of a run: 'seed' is missing"
    assert "damaged" in reasons["vit-0"] or "must be" in reasons["vit-0"]
    assert reasons["broken-off"]
    assert (
        reasons[f"{runs.parent}/empty"]
        == "there are no runs below it: no directory has a config.json"
    )
    assert not reasons["vit-1"] and not reasons["deep/resnet"]


def test_the_objects_of_json_have_the_config(runs, capsys):
    _, out, _ = outcome(command.main, capsys, runs, "--format", "json", "--sort", "name")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["name"] for record in records][0] == "broken-off"
    assert all(record["config"]["data.source"] == "digits" for record in records)


def test_groups_have_no_column_of_the_seed_of_their_first_run(tmp_path, capsys):
    for seed, rate in ((0, 0.1), (4, 0.2), (5, 0.2)):
        make_run(tmp_path / f"{seed}", 0.9, seed=seed, optimizer__learning_rate=rate)
    _, out, _ = outcome(command.main, capsys, tmp_path, "--group", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["seeds"]: row["optimizer.learning_rate"] for row in rows} == {
        "0": "0.1",
        "4, 5": "0.2",
    }
    assert all("seed" not in row for row in rows)


def test_groups_for_a_program(runs, capsys):
    """A mean, its deviation and its number are columns of their own; the config has no seed."""
    flags = ("--group", "--sort", "name")
    _, out, _ = outcome(command.main, capsys, runs, *flags, "--format", "csv")
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(out))}
    vit = next(row for model, row in rows.items() if model.startswith("vit "))
    assert vit["seeds"] == "0, 1, 2"
    assert float(vit["accuracy"]) == pytest.approx(0.97)
    assert float(vit["accuracy/deviation"]) == pytest.approx(0.01)
    assert vit["accuracy/runs"] == "3"
    assert vit["optimizer.learning_rate"] == str(default().optimizer.learning_rate)
    _, out, _ = outcome(command.main, capsys, runs, *flags, "--format", "json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["seeds"] for record in records] == [[0], [0], [0, 1, 2]]
    assert "accuracy" not in records[0]
    assert records[1]["accuracy/deviation"] is None
    assert all("seed" not in r["config"] and r["config"]["train.steps"] == 40 for r in records)


def test_a_difference_for_a_program(runs, capsys):
    words = (runs / "vit-0", runs / "deep" / "resnet", "--diff")
    _, out, _ = outcome(command.main, capsys, *words, "--format", "csv")
    rows = {row.pop("key"): list(row.values()) for row in csv.DictReader(io.StringIO(out))}
    assert rows["accuracy"] == ["0.97", "0.5"]
    assert rows["model.name"] == ["vit", "resnet"]
    assert "train.steps" not in rows
    _, out, _ = outcome(command.main, capsys, *words, "--format", "json")
    values = {r["key"]: r["values"] for r in map(json.loads, out.splitlines())}
    assert list(values["optimizer.learning_rate"].values())[1] == 0.1
    assert values["steps"] == {str(runs / "vit-0"): 40, str(runs / "deep" / "resnet"): 40}


def test_no_jax_is_imported(runs):
    code = (
        "import sys; from vision.runs import __main__ as c; from vision.runs import page;"
        f"c.main([{str(runs)!r}]); print([n for n in ('jax', 'flax', 'cv2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
