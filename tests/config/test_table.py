"""`python -m vision.config`: the table of keys."""

import re

import pytest

from vision import cli
from vision.config import __main__ as command
from vision.config.schema import SECTIONS, all_keys


def table(capsys, *words):
    cli.run(command.main, words)
    return capsys.readouterr().out


def test_the_table_lists_every_key_with_default_range_and_meaning(capsys):
    text = table(capsys)
    for name, key in all_keys().items():
        assert f"\n  {name} " in f"\n{text}"
        assert key.meaning.split()[0] in text
    assert re.search(r"label_smoothing +0.0 +in \[0, 1\) +share of each label", text)
    assert all(section.meaning.split()[0] in text for section in SECTIONS.values())


def test_the_table_of_a_word_has_names_and_meanings_with_it(capsys):
    text = table(capsys, "Peak")
    assert re.findall(r"^  (\S+)", text, re.M) == [
        "optimizer.learning_rate",
        "schedule.start",
        "schedule.final",
        "schedule.timescale",
    ]


@pytest.mark.parametrize(
    "words, message",
    [
        (["learnign"], "no key has 'learnign' in its name or meaning (did you mean"),
        (["one", "two"], "give at most one word"),
    ],
)
def test_a_word_that_no_key_has(words, message, capsys):
    with pytest.raises(SystemExit):
        table(capsys, *words)
    assert message in capsys.readouterr().err
