"""The commands: what they write, that they go on, and mistakes in their flags."""

import csv
import json
import re

import pytest

from tests.conftest import REPOSITORY
from tests.search.architecture.conftest import SPACE, call, settings
from vision import cli
from vision.errors import RunError, UserError
from vision.models.layers.variants import choice_of, parse, spell
from vision.search.architecture import __main__ as search
from vision.search.architecture import costs, networks, rank
from vision.search.architecture.candidates import cost_text
from vision.search.architecture.costs import Task
from vision.search.architecture.networks import best_accuracy

pytestmark = pytest.mark.long

optuna = pytest.importorskip("optuna")
from vision.search.architecture.study import check_budget  # noqa: E402
from vision.search.space import FileSpace, check_space  # noqa: E402

BUDGET = 100_000


def shared(supernet, out, *flags):
    flags = (f"--workdir={supernet}", f"--out={out}", "--population=4", *flags)
    return call(search, *flags)


def test_evolution_under_a_budget(supernet, tmp_path):
    argv = (f"--budget={BUDGET}", "--trials=8")
    lines = shared(supernet, tmp_path / "out", *argv)
    record = json.loads((tmp_path / "out" / "search.json").read_text())
    judged = record["rows"]
    assert 1 < len(judged) <= 8 and all(row["macs"] <= BUDGET for row in judged.values())
    best = max(judged.values(), key=lambda row: row["accuracy"])
    assert judged[record["best"]]["accuracy"] == best["accuracy"]
    with (tmp_path / "out" / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == list(judged)
    assert [row["variant"] for row in rows if row["best"] == "1"] == [record["best"]]
    assert (tmp_path / "out" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert any("--variant " + record["best"] in line for line in lines)
    again = shared(supernet, tmp_path / "out", *argv)
    assert again[-2:] == lines[-2:] and not any(line.startswith("1:") for line in again)
    assert json.loads((tmp_path / "out" / "search.json").read_text()) == record


def test_a_front_without_a_budget(supernet, tiny_run, tmp_path):
    flags = ("--trials=6", "--images=40", f"--beside={tiny_run}")
    lines = shared(supernet, tmp_path / "out", *flags)
    record = json.loads((tmp_path / "out" / "search.json").read_text())
    assert record["budget"] is None and record["best"] is None
    front = [record["rows"][name] for name in record["front"]]
    assert front == sorted(front, key=lambda row: row["macs"])
    assert front == sorted(front, key=lambda row: row["accuracy"])
    (beside,) = record["beside"]
    assert beside["title"] == tiny_run.name and beside["accuracy"] == best_accuracy(tiny_run)
    assert any(line.endswith(f": {tiny_run.name}") for line in lines)


def test_an_interrupted_search_goes_on_to_the_same_end(supernet, tmp_path, monkeypatch):
    """As if it had not been: the rows that were there are not judged again."""
    argv = (f"--budget={BUDGET}", "--trials=7", "--seed=3")
    shared(supernet, tmp_path / "whole", *argv)
    from vision.search.architecture.networks import Shared

    accuracy = Shared.accuracy
    judged = []

    def interrupt(networks, choice):
        if len(judged) == 3:
            raise KeyboardInterrupt
        judged.append(choice)
        return accuracy(networks, choice)

    with monkeypatch.context() as patch:
        patch.setattr(Shared, "accuracy", interrupt)
        lines = shared(supernet, tmp_path / "out", *argv)
    assert lines[-1] == "interrupted: run the same command to continue"
    shared(supernet, tmp_path / "out", *argv)
    whole, resumed = (
        json.loads((tmp_path / name / "search.json").read_text()) for name in ("whole", "out")
    )
    assert resumed == whole


def test_networks_that_failed_are_retried_if_asked(supernet, tmp_path, monkeypatch, capsys):
    argv = (f"--budget={BUDGET}", "--trials=6", "--images=40")
    accuracy = networks.Shared.accuracy

    def fail(own, choice):
        if choice["0.k"] == 5:
            raise KeyError("an odd shape")
        return accuracy(own, choice)

    def rows():
        return json.loads((tmp_path / "out" / "search.json").read_text())["rows"]

    with monkeypatch.context() as patch:
        patch.setattr(networks.Shared, "accuracy", fail)
        shared(supernet, tmp_path / "out", *argv)
    before = rows()
    failed = [name for name, row in before.items() if "skipped" in row]
    assert 0 < len(failed) < len(before)
    assert (tmp_path / "out" / "failures.txt").read_text().count("Traceback") == len(failed)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    shared(supernet, tmp_path / "out", *argv)
    assert rows() == before
    shared(supernet, tmp_path / "out", *argv, "--retry")
    assert all("accuracy" in row for row in rows().values())
    assert not (tmp_path / "out" / "failures.txt").exists()
    kept = {name: row for name, row in before.items() if name not in failed}
    assert kept.items() <= rows().items()


def test_kendalls_tau_by_counting_pairs():
    a = [0.1, 0.2, 0.3, 0.4, 0.5]
    b = [0.1, 0.3, 0.2, 0.5, 0.4]
    result = rank.correlation(a, b)
    assert result["tau"] == pytest.approx((8 - 2) / 10)
    assert result["interval"][0] <= result["tau"] <= result["interval"][1]


class Faked:
    """Networks that are judged without a training; one of them cannot be trained."""

    space = parse(SPACE)
    task = None

    def __init__(self, *_):
        self.judged = []

    def accuracy(self, choice):
        self.judged.append(choice)
        if len(self.judged) in self.failing:
            raise self.error
        return len(self.judged) / 10

    failing = ()
    error = RunError("the loss is not finite\nafter step 3")


def fake(monkeypatch, **failures):
    """Lets a ranking judge `Faked` networks, some of which fail when they are trained alone."""
    monkeypatch.setattr(networks, "Shared", Faked)
    monkeypatch.setattr(networks, "Trained", type("Failing", (Faked,), failures))
    monkeypatch.setattr(costs, "count", lambda choice, task: 7)


def test_a_network_that_fails_is_not_ranked(tmp_path, monkeypatch):
    fake(monkeypatch, failing=(2,))
    result = rank.rank(None, "", tmp_path, 4, 0)
    assert [row.get("failed", "") for row in result["networks"]] == [
        "",
        "the loss is not finite",
        "",
        "",
    ]
    assert result["tau"] == pytest.approx(1)
    with (tmp_path / "ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["alone"] == "" and rows[1]["failed"] == "the loss is not finite"
    with pytest.raises(RunError, match="2 of 3 networks could be trained, too few to rank") as few:
        rank.rank(None, "", tmp_path, 3, 0)
    assert "the last failed with: the loss is not finite\nFix this" in str(few.value)
    assert not (tmp_path / "failures.txt").exists()


def test_a_ranking_of_which_all_fail_stops(tmp_path, monkeypatch, capsys):
    fake(monkeypatch, failing=range(1, 20), error=TypeError("an odd shape"))
    with pytest.raises(RunError) as error:
        rank.rank(None, "", tmp_path, 20, 0)
    assert str(error.value) == (
        "the first 5 networks have all failed, the last with: TypeError: an odd shape\n"
        "Fix this, and run the same command again"
    )
    assert (tmp_path / "failures.txt").read_text().count("Traceback") == 5
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budget=10"], "--budget = 10: no network of the space fits; the smallest, c4-w4e2-h8"),
        (["--budget=-1"], "--budget must be above 0"),
        (["--budget=small"], "--budget = 'small' must be MODEL:VARIANT"),
        (["--budget=mobilenet:smal"], "did you mean 'small'"),
        (["--budget=1e6", "--sampler=nsga2"], "searches a front: leave --budget out"),
        (["--sampler=evolution"], "--sampler evolution needs a --budget"),
        (["--sampler=evolutions"], "did you mean 'evolution'"),
        (["--score=synflo"], "did you mean 'synflow'"),
        (["--cost=flops"], "--cost = 'flops' is unknown"),
        (["--trials=0"], "--trials must be at least 1"),
        (["--keep=1"], "--keep must be in"),
        (
            ["--budget=1e6", "--trials=1", "--beside=mobilenet:small"],
            "trains no other architecture",
        ),
        (["word"], "unexpected argument 'word'"),
    ],
)
def test_mistakes(flags, message, supernet, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        cli.run(search.main, [f"--workdir={supernet}", f"--out={tmp_path / 'out'}", *flags])
    text = capsys.readouterr().err
    assert error.value.code == 2 and re.search(message, text), text
    assert len(text.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.model.name=resnet", "--config.model.variant=cifar20"], "needs mobile_space"),
        (["--config.model.variant=mu"], "is one network: give a space"),
        (["--config.model.variant=c4-w4.8e2u1-h8"], "'u' is unknown"),
        (["--workdir=runs/x"], "Give --config FILE, or --workdir RUN"),
    ],
)
def test_configs_that_name_no_space(flags, message, config, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        cli.run(search.main, ["--config", str(config), f"--out={tmp_path / 'out'}", *flags])
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_another_search_in_the_same_directory(supernet, tmp_path, capsys):
    shared(supernet, tmp_path / "out", "--trials=1", f"--budget={BUDGET}")
    before = (tmp_path / "out" / "search.json").read_bytes()
    with pytest.raises(SystemExit):
        shared(supernet, tmp_path / "out", "--trials=1", f"--budget={BUDGET}", "--seed=1")
    assert "holds another search: seed is 0 there, 1 here" in capsys.readouterr().err
    assert (tmp_path / "out" / "search.json").read_bytes() == before


FILE = "configs/spaces/architecture.py"


def drawn(spec, count):
    """Returns (networks that the file's space has drawn, why others were pruned)."""
    space = FileSpace(spec)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    names = []
    reasons = []
    for _ in range(count):
        try:
            names.append(space.apply(study.ask(), settings()).model.variant)
        except optuna.TrialPruned as error:
            reasons.append(str(error))
    return names, reasons


def test_the_space_of_the_file_for_studies(monkeypatch):
    """It chooses one network and puts it into the config; within a budget, if it has one."""
    monkeypatch.chdir(REPOSITORY)
    names, reasons = drawn(FILE, 30)
    assert len(names) == 30 and not reasons
    for name in names:
        parse(SPACE).check(choice_of(name))
    task = Task(settings(), tuple("0123456789"), 8, 1)
    costs = {name: task.macs(name) for name in set(names)}
    most = sorted(costs.values())[len(costs) // 2]
    within, reasons = drawn(f"{FILE}:{most}", 30)
    assert within == [name for name in names if costs[name] <= most]
    over = [costs[name] for name in names if costs[name] > most]
    assert reasons == [f"{cost:,} multiply-adds, over {most:,}" for cost in over]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (f"{FILE}:10", "no network of the space fits; the smallest, c4-w4e2-h8, costs"),
        (f"{FILE}:small", "must be a number, got 'small'"),
        (f"{FILE}:-1", "must be above 0"),
        ("configs/spaces/size.py:2e6", "does not take the argument '2e6'"),
    ],
)
def test_budgets_that_are_refused(spec, message, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match=re.escape(message)):
        check_space(FileSpace(spec), settings())


def test_large_numbers_are_shown_in_full(monkeypatch):
    """Costs of a larger space, above a million multiply-adds."""
    monkeypatch.chdir(REPOSITORY)
    c = settings("c64-w64.128d1.2k3e4.6-h64")
    with pytest.raises(UserError, match=r"is 1,000,001: no .* costs \d,\d{3},\d{3}$"):
        check_budget(c, spell(parse(c.model.variant).smallest()), "1000001")
    most = Task(c, tuple("0123456789"), 8, 1).macs(spell(parse(c.model.variant).smallest()))
    largest = spell(parse(c.model.variant).largest())
    with pytest.raises(optuna.TrialPruned, match=rf"over {most:,}$"):
        check_budget(c, largest, str(most))
    assert most > 1e6
    assert cost_text(most, "macs") == f"{most:,}" and cost_text(0.25, "latency") == "0.25"
