"""The arguments of a training that are not flags are those that absl leaves."""

import pytest

from vision.config import default
from vision.config.flags import parse_stage, positional
from vision.main import define_flags


@pytest.mark.parametrize(
    "words",
    [
        ["photos"],
        ["--workdir", "run", "photos"],
        ["photos", "--workdir=run", "more"],
        ["--noconfig.log.tensorboard", "photos"],
        ["--config.log.tensorboard", "photos"],
        ["-noconfig.log.tensorboard", "photos", "--config.log.progress=False"],
        ["--config.train.epochs", "2", "photos"],
        ["--config.model.pool=None", "photos", "--config.model.options.width=8"],
        ["--workdir", "run", "--", "photos", "--config.seed=1"],
    ],
    ids=" ".join,
)
def test_words_are_what_absl_leaves(words):
    expected = parse_stage(words, "", define_flags, default)[2]
    assert expected and positional(words) == expected


def test_the_value_of_a_flag_is_no_word():
    assert positional(["--config", "configs/digits.py", "photos"]) == ["photos"]
    assert positional(["--config.seed", "-1", "photos"]) == ["photos"]  # refused later, by its name
    assert positional(["--workdir"]) == []
