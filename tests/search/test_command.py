"""The command, as its user calls it: trials, pruning, failures, repetitions, what it writes."""

import csv
import gzip
import json

import pytest

from tests.support.search_command import SPACE, arguments
from vision import cli, main
from vision.errors import UserError
from vision.search import __main__ as command
from vision.search.storage import open_storage

pytestmark = pytest.mark.long


def search(out, *flags, **keys):
    cli.run(command.main, arguments(out, *flags, **keys))


def table(out):
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of eight trials under ASHA, whose best is repeated with two seeds."""
    out = tmp_path_factory.mktemp("search") / "study"
    flags = (f"--space={SPACE}", "--pruner=asha", "--repeat=1", "--seeds=0,1")
    search(out, *flags, "--trials=6")
    search(out, *flags, "--trials=8")  # the same command goes further
    return out


def test_trials_are_runs(study):
    rows = table(study)
    assert [row["trial"] for row in rows] == [f"{place:04d}" for place in range(8)]
    states = {row["state"] for row in rows}
    assert states == {"complete", "pruned"}
    for row in rows:
        directory = study / "trials" / row["trial"]
        result = json.loads((directory / "result.json").read_text())
        config = json.loads((directory / "config.json").read_text())
        assert config["optimizer"]["learning_rate"] == float(row["learning_rate"])
        assert int(row["images"]) == result["steps"] * config["train"]["batch_size"]
        assert result["ended"] == ("finished" if row["state"] == "complete" else "pruned")
        if row["state"] == "pruned":
            assert result["steps"] < 32
            assert row["reason"] == f"pruned at step {result['steps']}"
            assert any((directory / "checkpoints").iterdir())


def test_the_value_is_that_of_the_best_checkpoint(study):
    for row in table(study):
        if row["state"] == "complete":
            lines = (study / "trials" / row["trial"] / "metrics.jsonl").read_text().splitlines()
            measured = [json.loads(line).get("val/accuracy", 0) for line in lines]
            assert float(row["val/accuracy"]) == max(measured)


def test_the_best_config_runs_as_it_is(study, tmp_path):
    from vision.config.load import load

    best = load(str(study / "best.py"))
    rows = {row["trial"]: row for row in table(study) if row["state"] == "complete"}
    winner = max(rows.values(), key=lambda row: float(row["val/accuracy"]))
    assert best.optimizer.learning_rate == float(winner["learning_rate"])
    text = (study / "best.py").read_text()
    assert f"Trial {winner['trial']} of the study 'study'" in text
    assert "With seeds 0, 1, accuracy on the test split" in text
    theirs = json.loads((study / "trials" / winner["trial"] / "config.json").read_text())
    assert best.to_dict()["optimizer"] == theirs["optimizer"]
    workdir = tmp_path / "run"
    cli.run(main.main, [f"--config={study}/best.py", f"--workdir={workdir}"])
    assert (workdir / "result.json").is_file()


def test_the_report_shows_what_was_done(study):
    page = (study / "report.html").read_text()
    for part in (
        "Learning curves",
        "The best, repeated",
        "the config as given",
        "Each parameter",
    ):
        assert part in page
    record = json.loads((study / "results.json").read_text())
    assert sum(record["trials"].values()) == 8
    assert record["images"] == sum(int(row["images"]) for row in table(study))
    assert [repeated["seeds"] for repeated in record["repeated"]] == [[0, 1], [0, 1]]


def test_repetitions_are_tested_on_images_that_the_search_has_not_seen(study):
    files = [*study.glob("trials/*/splits.csv.gz"), *study.glob("repeats/*/splits.csv.gz")]
    assert len(files) == 8 + 4
    assert len({gzip.decompress(file.read_bytes()) for file in files}) == 1


def test_a_finished_study_is_not_trained_again(study, capsys):
    before = (study / "trials.csv").read_bytes()
    files = {path: path.stat().st_mtime for path in study.glob("trials/*/result.json")}
    search(study, f"--space={SPACE}", "--trials=8", "--pruner=asha")
    assert (study / "trials.csv").read_bytes() == before
    assert files == {path: path.stat().st_mtime for path in study.glob("trials/*/result.json")}
    assert "trial 00" in capsys.readouterr().out


def test_failures_have_reasons_and_end_nothing(tmp_path, monkeypatch):
    """Whatever goes wrong with one config: also what nobody expected, and a measure that is NaN."""
    (tmp_path / "odd_idea").mkdir()
    (tmp_path / "odd_idea" / "model.py").write_text(
        "def build(*arguments, **options):\n    raise TypeError('an odd shape')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    space = tmp_path / "space.py"
    space.write_text(
        "KINDS = ['good', 'nan', 'refused', 'odd', 'unmeasured']\n"
        "def space(trial, config):\n"
        "    kind = trial.suggest_categorical('kind', KINDS)\n"
        "    config.optimizer.learning_rate = 1e30 if kind == 'nan' else 1e-3\n"
        "    config.model.variant = 'mu/3' if kind == 'refused' else 'mu/4'\n"
        "    config.model.name = 'odd_idea.model' if kind == 'odd' else 'vit'\n"
        "    config.optimizer.weight_decay = 1e-3 if kind == 'unmeasured' else 0.0\n"
        "def measure(config, workdir):\n"
        "    return {'cost': float('nan') if config.optimizer.weight_decay else 1.0}\n"
    )
    out = tmp_path / "study"
    flags = ("--sampler=grid", "--objective=val/accuracy,cost:min")
    search(out, f"--space={space}", *flags, train__epochs=1.0)
    rows = {row["kind"]: row for row in table(out)}
    assert {kind for kind, row in rows.items() if row["state"] == "complete"} == {"good"}
    assert all(row["state"] in ("complete", "failed") for row in rows.values())
    assert "finite" in rows["nan"]["reason"]
    assert float(rows["nan"]["seconds"]) > 0 and float(rows["odd"]["seconds"]) > 0
    assert "divide" in rows["refused"]["reason"]
    assert rows["odd"]["reason"] == "TypeError: an odd shape"
    assert rows["unmeasured"]["reason"].startswith("cost is nan")
    log = out / "logs" / f"trials-{rows['odd']['trial']}.txt"
    assert "Traceback" in log.read_text()


def test_several_objectives_have_a_front(tmp_path):
    space = tmp_path / "space.py"
    space.write_text(
        "def space(trial, config):\n"
        "    config.optimizer.learning_rate = trial.suggest_float('rate', 1e-4, 1e-2, log=True)\n"
        "def measure(config, workdir):\n"
        "    assert (workdir / 'result.json').is_file()\n"
        "    return {'cost': 1 / config.optimizer.learning_rate}\n"
    )
    out = tmp_path / "study"
    flags = ("--sampler=nsga2", "--objective=val/accuracy,cost:min", "--trials=4")
    search(out, f"--space={space}", *flags, train__epochs=1.0)
    for row in table(out):
        assert float(row["cost"]) == pytest.approx(1 / float(row["rate"]))
    assert "Trials that no other beats" in (out / "report.html").read_text()


def test_a_sweep_is_a_grid_with_seeds(tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from configs.digits import get_config\n"
        "def sweep():\n"
        "    for rate in (1e-4, 1e-2):\n"
        "        yield {'optimizer.learning_rate': rate}\n"
    )
    out = tmp_path / "study"
    argv = arguments(out, "--seeds=0,1", train__epochs=1.0)
    argv[argv.index("--config") + 1] = str(config)
    cli.run(command.main, argv)
    rows = table(out)
    assert sorted((float(r["optimizer.learning_rate"]), r["seed"]) for r in rows) == [
        (1e-4, "0"),
        (1e-4, "1"),
        (1e-2, "0"),
        (1e-2, "1"),
    ]
    assert "Over the seeds" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "how many trials?"),
        (["--trials=0"], "--trials must be at least 1"),
        (["--trials=3", "--sampler=bayes"], "--sampler = 'bayes' is unknown"),
        (["--trials=3", "--pruner=hyperbnd"], "did you mean 'hyperband'"),
        (["--trials=3", "--objective=val/accuracy,parameters", "--pruner=asha"], "one objective"),
        (["--trials=3", "--objective=parameters", "--pruner=asha"], "measured while a run trains"),
        (["--trials=3", "--repeat=2"], "at least two seeds"),
        (["--trials=3", "--seeds=a"], "--seeds must be integers"),
        (["--trials=3", "--seeds=1,1"], "has a seed twice"),
        (["--trials=3", "--grace=0"], "--grace must be in (0, 1]"),
        (["--trials=3", "--sampler=grid"], "'learning_rate' is continuous"),
        (["--trials=3", "--storage=sqlite:///x.db", "--workers=2"], "SQLite cannot serve"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_made(flags, part, tmp_path):
    with pytest.raises(UserError) as error:
        command.main(arguments(tmp_path / "study", f"--space={SPACE}", *flags))
    assert part in str(error.value)
    assert len(str(error.value).splitlines()) <= 2
    assert not (tmp_path / "study").exists()


def test_a_study_that_cannot_succeed_stops(tmp_path, capsys):
    space = tmp_path / "space.py"
    space.write_text(
        "def space(trial, config):\n"
        "    config.seed = trial.suggest_int('seed', 0, 100)\n"
        "    config.data.source = 'folder:/no/such/folder'\n"
    )
    with pytest.raises(SystemExit) as ended:
        search(tmp_path / "study", f"--space={space}", "--trials=20")
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert "the first 5 trials have all failed" in error
    assert "/no/such/folder" in error
    assert len(open_storage("", tmp_path / "study").get_all_trials(0)) == 20
