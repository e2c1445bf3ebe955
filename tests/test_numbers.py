"""Numbers out of range, for every key of the config and every flag: one line, never a traceback."""

import math

import pytest

from vision import cli
from vision.config import default
from vision.config.schema import all_keys
from vision.config.validate import validate
from vision.errors import UserError

HOSTILE = (-1, 0, -0.0, math.nan, math.inf, -math.inf, 2**31, 2**70, -(2**70), 1e300, 1e-300)
NUMERIC = [name for name, key in all_keys().items() if key.type in (int, float, tuple)]


def variants(kind):
    """Yields hostile values of a key's type."""
    for number in HOSTILE:
        if kind is tuple:
            yield from ((number,), (number, number), (number, number, number))
        elif kind is float or isinstance(number, int):
            yield kind(number)


@pytest.mark.parametrize("name", NUMERIC)
def test_every_key_refuses_what_no_array_can_hold(name):
    group, _, key = name.rpartition(".")
    for value in variants(all_keys()[name].type):
        config = default()
        (config[group] if group else config)[key] = value
        numbers = value if isinstance(value, tuple) else (value,)
        must_fail = not all(map(math.isfinite, numbers)) or any(abs(n) > 1e39 for n in numbers)
        must_fail |= name != "seed" and any(isinstance(n, int) and abs(n) >= 2**31 for n in numbers)
        must_fail |= abs(numbers[0]) >= 2**70 and isinstance(numbers[0], int)
        try:
            validate(config)
        except UserError as error:
            assert name in str(error) and len(str(error)) < 200 and "\n" not in str(error)
        else:
            assert not must_fail, value


def test_an_unset_key_has_a_range_too():
    config = default()
    config.model.dropout = 1.5
    with pytest.raises(UserError, match=r"model.dropout must be in \[0, 1\), got 1.5"):
        validate(config)
    config.model.dropout = None
    config.model.options.width = (1.0, math.nan)
    with pytest.raises(UserError, match=r"model.options.width must be a finite number"):
        validate(config)
    config.model.options.width = (2**70,)
    with pytest.raises(UserError, match=r"model.options.width must be between"):
        validate(config)


def test_too_little_memory_is_one_line(capsys):
    def allocate(_):
        raise MemoryError

    with pytest.raises(SystemExit) as ending:
        cli.run(allocate, [])
    err = capsys.readouterr().err
    assert (
        ending.value.code == 1
        and err.startswith("error: not enough memory")
        and err.count("\n") == 1
    )


COMMANDS = {
    "vision.predict": ("--top", "--batch_size", "--tiles"),
    "vision.evaluation.probe": ("--k",),
    "vision.export": ("--batch",),
    "vision.audit": ("--sample-for-review", "--config.audit.folds", "--config.audit.near"),
    "vision.evaluation": ("--config.evaluation.bins", "--config.evaluation.bootstrap"),
    "vision.compression.prune": ("--ratio", "--floor", "--batch", "--steps"),
    "vision.compression.quantize": ("--images", "--max-drop", "--weight-bits"),
    "vision.data": ("--shard-mib", "--shorter-side", "--quality", "--workers", "--max-unreadable"),
}
ARGUMENTS = {
    "vision.predict": ("--workdir={run}", "{run}"),
    "vision.export": ("--workdir={run}", "--out={out}"),
    "vision.data": ("pack", "digits", "{out}"),
    "vision.audit": ("--data=digits", "--out={out}"),
    "vision.evaluation.probe": ("--workdir={run}",),
}


@pytest.mark.parametrize(
    ("module", "flag"), [(module, flag) for module, names in COMMANDS.items() for flag in names]
)
@pytest.mark.parametrize("value", ["-1", "nan", "inf", str(2**70), "1e300", ""])
def test_every_flag_refuses_what_it_cannot_be(module, flag, value, tiny_run, tmp_path, capsys):
    import importlib

    name = (
        module if module in ("vision.predict", "vision.evaluation.probe") else f"{module}.__main__"
    )
    if module.startswith("vision.compression"):
        name = module
    command = importlib.import_module(name)
    arguments = ARGUMENTS.get(module, ("--workdir={run}", "--out={out}"))
    argv = [word.format(run=tiny_run, out=tmp_path / "out") for word in arguments]
    with pytest.raises(SystemExit) as ending:
        cli.run(command.main, [*argv, f"{flag}={value}"])
    err = capsys.readouterr().err
    assert ending.value.code == 2 and err.count("\n") <= 2, err
    assert "Traceback" not in err and len(err) < 500
