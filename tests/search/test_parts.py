"""The smaller parts, against formulas and references: shares, intervals, fronts, files."""

import dataclasses
import math

import numpy as np
import optuna
import pytest
from scipy import stats

from tests.search.requests import request
from vision.config import default
from vision.config.load import load
from vision.config.written import changed_keys, config_file
from vision.errors import UserError
from vision.search.output import describe
from vision.search.repeats import Contenders, Repeated, chosen_config, difference, interval
from vision.search.report import importances, page
from vision.search.request import parse_objectives
from vision.search.results import Results, Row, front, verdict_of
from vision.search.study import make_pruner, make_sampler
from vision.search.trial import resource
from vision.search.workers import shares


def row(place, *values, state="complete", **parameters):
    curve = ((50.0, values[0] / 2), (100.0, values[0])) if values else ()
    return Row(place, f"{place:04d}", state, values, "", parameters, 100, 1.0, curve)


def results(tmp_path, rows, repeated=(), **changes):
    made = request(tmp_path, **changes)
    way = next(iter(made.objectives.values()))
    complete = [r for r in rows if r.state == "complete"]
    best = sorted(complete, key=lambda r: r.values[0], reverse=way == "max")
    names = dict.fromkeys(name for r in rows for name in r.parameters)
    return Results(made, tuple(rows), tuple(best), tuple(repeated), 0, 0, tuple(names))


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
def test_workers_divide_the_cores(workers):
    parts = shares(workers, range(8), ())
    cores = [core for part in parts for core in part.cores]
    assert sorted(cores) == list(range(8))
    sizes = [len(part.cores) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_more_workers_than_cores_share_them():
    assert [part.cores for part in shares(4, [3, 5], ())] == [(3,), (3,), (5,), (5,)]


def test_each_gpu_has_one_worker():
    assert [p.gpus for p in shares(2, [0, 1], ["0", "1", "2", "3"])] == [("0", "1"), ("2", "3")]
    with pytest.raises(UserError, match=r"there are 2 GPUs"):
        shares(3, [0, 1, 2], ["0", "1"])


def test_the_interval_is_students(tmp_path):
    values = [0.91, 0.93, 0.90, 0.94]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert interval(values) == pytest.approx((np.mean(values), *expected))
    assert interval([0.5]) == (0.5, -math.inf, math.inf)
    assert interval([0.1, 0.9], "val/accuracy") == (0.5, 0, 1)
    assert interval([0.1, 0.9], "val/loss")[1] < 0
    paired = stats.ttest_rel([0.9, 0.8, 0.95], [0.7, 0.75, 0.9]).confidence_interval(0.95)
    ours = difference({0: 0.9, 1: 0.8, 2: 0.95, 7: 0.1}, {0: 0.7, 1: 0.75, 2: 0.9})
    assert ours[1:] == pytest.approx((paired.low, paired.high))
    far = ({0: 0.9, 1: 0.2}, {0: 0.1, 1: 0.3})
    assert difference(*far, "val/accuracy")[1:] == (-1, 1)
    assert difference(*far, "val/loss")[1] < -1


@pytest.mark.parametrize(
    ("scores", "way", "words"),
    [
        ((0.9, 0.91, 0.92), "max", "an improvement beyond the spread"),
        ((0.5, 0.51, 0.52), "max", "a loss beyond the spread"),
        ((0.9, 0.6, 0.8), "max", "no improvement is shown"),
        ((0.5, 0.51, 0.52), "min", "an improvement beyond the spread"),
    ],
)
def test_nothing_is_called_better_within_the_spread(scores, way, words, tmp_path):
    by_seed = dict(enumerate(scores))
    plain = {0: 0.70, 1: 0.72, 2: 0.71}
    repeated = [
        Repeated("default", (0, 1, 2), plain, plain, 10, 1.0),
        Repeated("0000", (0, 1, 2), by_seed, by_seed, 10, 1.0),
    ]
    made = results(tmp_path, [row(0, 0.99)], repeated, objectives={"val/loss": way})
    assert words in verdict_of(made, "0000")[-1]
    assert chosen_config(repeated[1:], way) == "0000"


def test_what_only_computes_a_run_makes_no_other_repetitions():
    """As of the study itself: with another number of loaders the same repetitions go on."""
    config = default()

    def digest(seeds=(0, 1), **changes):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
        configs = {"default": config.to_dict(), "0000": changed.to_dict()}
        return Contenders(configs, seeds).digest

    assert digest(data__workers=3, log__progress=False, compile_cache="x") == digest()
    others = [digest(), digest(seeds=(0, 2)), digest(optimizer__learning_rate=0.125)]
    assert len(set(others)) == 3


def test_the_front_of_two_objectives(tmp_path):
    """Against the definition, for random values."""
    draw = np.random.default_rng(0)
    rows = [row(i, *draw.integers(0, 6, 2).astype(float)) for i in range(40)]
    made = results(tmp_path, rows, objectives={"val/accuracy": "max", "parameters": "min"})
    expected = {
        r.place
        for r in rows
        if not any(
            o.values[0] >= r.values[0] and o.values[1] <= r.values[1] and o.values != r.values
            for o in rows
        )
    }
    assert {r.place for r in front(made)} == expected


def test_what_matters_is_the_most_important(tmp_path):
    draw = np.random.default_rng(0)
    rows = []
    for place in range(40):
        rate, kind = 10 ** draw.uniform(-4, -1), draw.choice(["a", "b"])
        value = -((math.log10(rate) + 2) ** 2) + 0.1 * draw.normal()
        rows.append(row(place, value, rate=rate, kind=str(kind), same=1))
    made = results(tmp_path, rows)
    found = importances(made)
    assert list(found) == ["rate", "kind"]
    assert found["rate"] > 0.9
    assert sum(found.values()) == pytest.approx(1, abs=0.01)
    assert page(made).count("data:image/png") == 5
    assert importances(results(tmp_path, rows[:5])) == {}


@pytest.mark.parametrize(
    "rows",
    [
        [row(0, state="failed"), row(1, state="waiting")],
        [row(0, 0.5)],
        [row(0, 0.5, a=1), row(1, 0.4, a=(1, 2)), row(2, 0.3, b=None), row(3, 0.2, state="pruned")],
        [row(i, 0.1 * i, kind="<b>&" * 9, on=bool(i % 2)) for i in range(9)],
    ],
    ids=["none finished", "one", "odd values", "markup"],
)
def test_any_study_has_a_page(rows, tmp_path):
    text = page(results(tmp_path, rows))
    assert "<b>&" not in text


@pytest.mark.parametrize("killed", [0, 2])
def test_the_cost_says_what_it_leaves_out(killed, tmp_path):
    made = results(tmp_path, [row(0, 0.5), row(1, 0.4)])
    made = dataclasses.replace(made, lost=3, killed=killed)
    cost = "200 images in 2 s of training"
    words = ", not counting work repeated after workers were killed"
    assert describe(made)[0] == f"2 complete; {cost}{words if killed else ''}"
    assert (words in page(made)) == bool(killed)
    assert "3 attempts cut short" in page(made)


def test_a_config_file_says_what_differs(tmp_path):
    c = default()
    c.optimizer.learning_rate = 0.1 + 0.2
    c.data.mean = (0.5,)
    c.model.dropout = 0.1
    c.model.options.width = 32
    c.model.options["if"] = "a 'quoted' \\ text"
    c.train.steps = 7
    base = default()
    base.train.steps = 7
    text = config_file(c, ["From here.", 'With """ in it.'], changed_keys(c, base))
    path = tmp_path / "best.py"
    path.write_text(text)
    assert load(str(path)).to_dict() == c.to_dict()
    assert "c.train.steps = 7\n" in text
    assert "learning_rate = 0.30000000000000004  # searched" in text


def test_trials_are_compared_after_equally_many_images():
    base = default()
    base.train.epochs = 10.0
    assert resource(base, base, 0.25) == 25
    longer = base.copy_and_resolve_references()
    longer.train.epochs = 20.0
    longer.train.batch_size *= 2
    assert resource(longer, base, 0.25) == 50
    steps = base.copy_and_resolve_references()
    steps.train.steps = 100
    larger = steps.copy_and_resolve_references()
    larger.train.batch_size *= 2
    larger.train.steps = 50
    assert resource(larger, steps, 0.5) == 50
    assert resource(base, base, 1e-6) == 1


def test_hyperband_spends_less_than_half():
    """On a simulated study: values that only grow, so that the order never changes."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", pruner=make_pruner("hyperband", 0.1))
    spent = 0
    best = 0.0
    for place in range(40):
        study.sampler = make_sampler("random", 0, place)
        trial = study.ask()
        quality = trial.suggest_float("quality", 0, 1)
        state = optuna.trial.TrialState.COMPLETE
        for percent in range(5, 101, 5):
            spent += 5
            trial.report(quality * percent, percent)
            if percent < 100 and trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        done = state == optuna.trial.TrialState.COMPLETE
        study.tell(trial, quality if done else None, state)
        best = max(best, quality if done else 0)
    assert spent < 0.5 * 40 * 100
    assert best > 0.9


def test_every_trial_has_a_random_stream_of_its_own():
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def draw(seed, place):
        study = optuna.create_study(sampler=make_sampler("random", seed, place))
        return study.ask().suggest_float("x", 0, 1)

    values = [draw(seed, place) for seed in (0, 1) for place in range(4)]
    assert len(set(values)) == 8
    assert draw(1, 2) == values[6]


@pytest.mark.parametrize("name", ["tpe", "cmaes", "random", "nsga2"])
def test_samplers_start_from_the_storage_alone(name):
    """A new one for each trial, as several workers have."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize")
    for place in range(60):
        study.sampler = make_sampler(name, 0, place)
        trial = study.ask()
        x, y = (trial.suggest_float(axis, -5, 5) for axis in "xy")
        study.tell(trial, (x - 1) ** 2 + (y + 2) ** 2)
    assert study.best_value < 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"val/accuracy": "max"}),
        ("val/loss", {"val/loss": "min"}),
        ("val/accuracy, parameters", {"val/accuracy": "max", "parameters": "min"}),
        ("val/knn,gain:min", {"val/knn": "max", "gain": "min"}),
    ],
)
def test_objectives(text, expected):
    assert parse_objectives(text, default()) == expected


@pytest.mark.parametrize("text", ["a,a", ",", "a:up"])
def test_wrong_objectives(text):
    with pytest.raises(UserError, match="--objective"):
        parse_objectives(text, default())
