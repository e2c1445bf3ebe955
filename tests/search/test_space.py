"""What a space may do, and what is said about one that is wrong."""

import optuna
import pytest

from tests.search.requests import request
from vision.config import default
from vision.errors import UserError
from vision.search.space import FileSpace, check_space
from vision.search.study import open_space


def space(tmp_path, *lines, name="space.py"):
    path = tmp_path / name
    path.write_text("def space(trial, config):\n" + "".join(f"    {line}\n" for line in lines))
    return FileSpace(str(path))


def message(tmp_path, *lines):
    with pytest.raises(UserError) as error:
        check_space(space(tmp_path, *lines), default())
    text = str(error.value)
    assert len(text.splitlines()) <= 2
    return text


RATE = "rate = trial.suggest_float('rate', 1e-4, 1e-1, log=True)"


def test_a_trial_has_a_config_of_its_own(tmp_path):
    base = default()
    made = space(tmp_path, RATE, "config.optimizer.learning_rate = rate")
    config = made.apply(optuna.trial.FixedTrial({"rate": 0.01}), base)
    assert config.optimizer.learning_rate == 0.01
    assert base.to_dict() == default().to_dict()


def test_an_unknown_key_is_named_with_the_nearest(tmp_path):
    text = message(tmp_path, RATE, "config.optimizer.learning_rat = rate")
    assert "space.py:3" in text
    assert "did you mean 'optimizer.learning_rate'?" in text


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["config.optimizer.momentum = trial.suggest_float('m', 0.5, 1.5)"], "optimizer.momentum"),
        (["config.train.batch_size = trial.suggest_int('b', 0, 8)"], "train.batch_size must be"),
        (["config.train.batch_size = trial.suggest_categorical('b', [8, 0, 4])"], "got 0"),
        (["config.train.batch_size = trial.suggest_float('b', 8, 9)"], "must be an integer"),
        (["config.optimizer.learning_rate = trial.suggest_float('r', 1, 0.1)"], "space.py:2"),
        (["pass"], "is empty"),
        ([RATE], "changes nothing"),
        (["1 / 0"], "space.py:2: ZeroDivisionError"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(lines, part, tmp_path):
    assert part in message(tmp_path, *lines)


def test_a_file_that_is_missing_or_is_no_space(tmp_path):
    with pytest.raises(UserError, match=r"did you mean 'configs/spaces/supervised.py'"):
        FileSpace("configs/spaces/supervise.py")
    (tmp_path / "other.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"has no space\(trial, config\)"):
        FileSpace(str(tmp_path / "other.py"))


def test_comments_do_not_make_another_space(tmp_path):
    code = [RATE, "config.optimizer.learning_rate = rate"]
    plain = space(tmp_path, *code)
    commented = space(tmp_path, "# why", *code, name="b.py")
    wider = space(tmp_path, code[0].replace("1e-4", "1e-5"), code[1], name="c.py")
    assert plain.digest == commented.digest != wider.digest


def test_a_combination_may_be_refused(tmp_path):
    made = space(
        tmp_path,
        "import optuna",
        "config.train.batch_size = trial.suggest_categorical('b', [8, 16])",
        "if config.train.batch_size == 8:",
        "    raise optuna.TrialPruned('too small')",
    )
    assert list(check_space(made, default())) == ["b"]


def test_measures_must_be_numbers(tmp_path):
    path = tmp_path / "m.py"
    path.write_text("def space(t, c): ...\ndef measure(c, w): return {'ms': 'fast'}\n")
    with pytest.raises(UserError, match=r"must return \{name: number\}"):
        FileSpace(str(path)).measure(default(), tmp_path)


def test_a_config_without_sweep_needs_a_space(tmp_path):
    with pytest.raises(UserError, match=r"Give --space FILE"):
        open_space(request(tmp_path, space=""))


@pytest.mark.parametrize("name", ["supervised", "size", "transfer"])
def test_the_spaces_that_are_here_fit_the_configs_that_they_name(name):
    from tests.conftest import REPOSITORY
    from vision.config.load import load

    config = "transfer_folder.py:photos" if name == "transfer" else "digits.py"
    made = FileSpace(str(REPOSITORY / f"configs/spaces/{name}.py"))
    found = check_space(made, load(str(REPOSITORY / "configs" / config)))
    assert len(found) >= 2
