"""Grids and sweeps: every combination once."""

import itertools

import pytest

from vision.config import default
from vision.errors import UserError
from vision.search.grid import Sweep, grid, sweep_of
from vision.search.space import FileSpace


def written(path, text):
    path.write_text(text)
    return str(path)


def space(tmp_path, text):
    return FileSpace(written(tmp_path / "space.py", "def space(trial, config):\n" + text))


def test_all_combinations_once(tmp_path):
    made = space(
        tmp_path,
        "    config.optimizer.b1 = trial.suggest_float('a', 0.1, 0.3, step=0.1)\n"
        "    config.train.batch_size = trial.suggest_int('b', 2, 6, step=2)\n"
        "    config.optimizer.name = trial.suggest_categorical('c', ['sgd', 'adam'])\n",
    )
    points = grid(made, default(), seed=0)
    tuples = sorted((round(p["a"], 6), p["b"], p["c"]) for p in points)
    assert tuples == sorted(itertools.product((0.1, 0.2, 0.3), (2, 4, 6), ("sgd", "adam")))
    assert points == grid(made, default(), seed=0) != grid(made, default(), seed=1)


def test_parameters_that_only_some_combinations_have(tmp_path):
    made = space(
        tmp_path,
        "    config.optimizer.name = trial.suggest_categorical('name', ['sgd', 'adam'])\n"
        "    if config.optimizer.name == 'sgd':\n"
        "        config.optimizer.momentum = trial.suggest_categorical('m', [0.0, 0.9])\n"
        "    config.train.batch_size = trial.suggest_categorical('b', [1, 2, 3])\n",
    )
    points = grid(made, default(), seed=0)
    assert len(points) == 2 * 3 + 3
    assert sum("m" in point for point in points) == 6


def test_a_continuous_parameter_has_no_grid(tmp_path):
    made = space(tmp_path, "    trial.suggest_float('rate', 0.1, 1)\n")
    with pytest.raises(UserError, match=r"'rate' is continuous"):
        grid(made, default(), seed=0)


def test_a_sweep_gets_the_arguments_of_its_config(tmp_path):
    path = written(
        tmp_path / "c.py",
        "def sweep(kind='a', rates=2):\n"
        "    for i in range(int(rates)):\n"
        "        yield {'optimizer.learning_rate': 0.1 * (i + 1), 'train.batch_size': 8}\n",
    )
    assert len(sweep_of(f"{path}:b:3").points) == 3
    sweep = sweep_of(f"{path}:smoke", seeds=(0, 5))
    assert [point["seed"] for point in sweep.points] == [0, 5, 0, 5]
    assert sweep_of(written(tmp_path / "none.py", "x = 1\n")) is None


def test_overrides_of_any_type_survive_the_storage():
    points = [
        {"data.mean": (0.1, 0.2), "model.pool": None, "model.options.width": 8},
        {"data.mean": (0.5,), "model.pool": "mean", "train.batch_size": 4},
    ]
    sweep = Sweep("sweep()", points)
    sweep.check(default())
    import optuna

    trial = optuna.trial.FixedTrial(sweep.points[0])
    trial.set_user_attr("place", 0)
    config = sweep.apply(trial, default())
    assert (config.data.mean, config.model.pool, config.model.options.width) == (
        (0.1, 0.2),
        None,
        8,
    )


@pytest.mark.parametrize(
    ("points", "part"),
    [
        ([], "is empty"),
        ([{"train.stps": 1}], "did you mean 'train.steps'"),
        ([{"train.steps": -1}], "train.steps must be at least 0"),
        ([{"train.steps": "many"}], "train.steps cannot be 'many'"),
        ([{"train": 1}], "no key 'train'"),
    ],
)
def test_wrong_overrides(points, part):
    with pytest.raises(UserError) as error:
        Sweep("sweep()", points).check(default())
    assert part in str(error.value)
