"""The command line of a config: its file, and overrides of its keys.

--config configs/resnet_cifar10.py            a file: vision/config/load.py
--config.train.steps=100                      an override; its type is the schema's
--config.model.pool=None                      back to None, for a key with that default
--config.model.options.width=32               an option, which can have any name and type
"""

import ast
import contextlib
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from vision.config.load import KINDS, load, unknown_key
from vision.config.schema import OPTION_GROUPS, all_keys
from vision.config.validate import leaves, validate
from vision.errors import UserError, check_flag, first_line
from vision.stages import as_called

HELP = """
  --config FILE[:ARGUMENT][:smoke]: the experiment, with its argument; smoke shrinks it to seconds
  --config.KEY=VALUE: overrides a key; `python -m vision.config` lists the keys
  --traceback: show where an error came from"""
NO_CONFIG = (
    "which experiment? Give --config FILE, for example --config configs/vit_mnist5k.py, "
    "or a run's --workdir"
)
OPTION = re.compile(rf"--config\.({'|'.join(OPTION_GROUPS)})\.(\w+)=(.*)")


def parse(
    argv: Sequence[str],
    usage: str,
    define: Callable[[flags.FlagValues], object] = lambda flag_values: None,
    fallback: Callable[[], ConfigDict | None] | None = None,
) -> tuple[ConfigDict, flags.FlagValues]:
    """Reads `--config FILE`, its overrides, and the flags that `define(flag_values)` adds.

    Args:
        argv: arguments, without the program's name.
        usage: text that `--help` prints above the flags.
        define: adds a command's own absl flags to a fresh `FlagValues`; nothing is registered
            globally.
        fallback: makes the config if there is no --config; None if there is no such default.

    Returns:
        (config, flag_values): the locked `ConfigDict` with every override applied, and the parsed
        flags.

    Raises:
        UserError: for an unknown flag or key, a wrong type, or a config that cannot be read.
    """
    config, values, words = parse_stage(argv, usage, define, fallback)
    if config is None:
        raise UserError(NO_CONFIG)
    if words:
        raise UserError(
            f"unexpected argument '{words[0]}': flags start with --, overrides with --config."
        )
    return config, values


def parse_stage(
    argv: Sequence[str],
    usage: str,
    define: Callable[[flags.FlagValues], object],
    fallback: Callable[[], ConfigDict | None] | None = None,
) -> tuple[ConfigDict | None, flags.FlagValues, list[str]]:
    """Reads the arguments of a command that takes a run or a config, and words such as files.

    Args:
        argv: arguments, without the program's name.
        usage: text that `--help` prints above the flags.
        define: adds a command's own flags, as in `parse`.
        fallback: makes the config if there is no --config, so that overrides work without one; it
            may return None.

    Returns:
        (config, flag_values, words): the first two as `parse` returns them, but the config is None
        if there is neither --config nor a config from `fallback`; words are the arguments that are
        not flags.

    Raises:
        UserError: for an unknown flag or key, a wrong type, or a config that cannot be read.
    """
    values = flags.FlagValues()
    define(values)
    if {"-h", "--help", "-help"} & set(argv):
        own_flags = (f"  --{name}: {values[name].help}" for name in values)
        print(as_called("\n".join((usage.strip(), HELP, *own_flags))))
        sys.exit(0)
    spec, rest = _take_config(argv)
    config = None
    if spec is not None:
        config = load(spec)
    elif fallback is not None:
        config = fallback()
    if config is None:
        _refuse_overrides(rest, fallback is not None)
    else:
        rest = _apply_special_overrides(config, rest)
    words = _parse_flags(config, values, rest)
    _check_values(config, values)
    if config is not None:
        validate(config)
    return config, values, words


def positional(argv: Sequence[str]) -> list[str]:
    """Returns the arguments of a training that are neither flags nor values of flags.

    They are needed before there is a config, and without one absl cannot parse overrides.
    """
    words: list[str] = []
    rest = iter(argv)
    for argument in rest:
        if argument == "--":
            return [*words, *rest]
        if not argument.startswith("-"):
            words.append(argument)
        elif _takes_value(argument):
            next(rest, None)
    return words


def _takes_value(argument):
    """Returns whether the value of a training's flag is the next argument."""
    name, equals, _ = argument.lstrip("-").partition("=")
    if equals or name.startswith("noconfig."):
        return False
    key = all_keys().get(name.removeprefix("config."))
    return key is None or key.type is not bool


def _take_config(argv):
    """Returns (spec, rest): the value of --config, None if it is not given; the other arguments."""
    rest = list(argv)
    if sum(a == "--config" or a.startswith("--config=") for a in rest) > 1:
        raise UserError("--config is given twice: a run has one config")
    for i, argument in enumerate(rest):
        if argument.startswith("--config="):
            del rest[i]
            return argument.removeprefix("--config="), rest
        if argument == "--config":
            if i + 1 == len(rest):
                raise UserError("--config needs a file: --config configs/vit_mnist5k.py")
            spec = rest[i + 1]
            del rest[i : i + 2]
            return spec, rest
    return None, rest


def _refuse_overrides(argv, takes_run):
    """Raises `UserError` if there are overrides, when there is no config that they could change."""
    overrides = [argument for argument in argv if re.match(r"--?(no)?config\.", argument)]
    if overrides:
        remedy = "the --workdir of a run, which has one" if takes_run else "--config FILE"
        raise UserError(f"'{overrides[0]}' overrides a config, but none is given: give {remedy}")


def _apply_special_overrides(config, argv):
    """Applies the overrides that absl cannot parse; returns the other arguments, checked."""
    rest = [a for a in argv if not (_set_option(config, a) or _set_none(config, a))]
    for argument in rest:
        _check_key(config, argument)
    return rest


def _set_option(config, argument):
    """Applies `--config.model.options.NAME=VALUE`, a name that the schema cannot know."""
    match = OPTION.fullmatch(argument)
    if not match:
        return False
    group, name, value = match.groups()
    with contextlib.suppress(ValueError, SyntaxError):
        value = ast.literal_eval(value)  # else it is a plain string
    section, _, options = group.partition(".")
    config[section][options][name] = value
    return True


def _set_none(config, argument):
    """Applies `--config.KEY=None`, so that an architecture without that option can be tried."""
    key = argument.removesuffix("=None").removeprefix("--config.")
    schema_key = all_keys().get(key)
    if argument != f"--config.{key}=None" or schema_key is None or schema_key.default is not None:
        return False
    section, _, name = key.rpartition(".")
    config[section][name] = None
    return True


def _check_key(config, argument):
    """Raises `UserError` if an argument overrides a key that does not exist."""
    match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
    if not match:
        return
    key = match.group(1)
    for group in OPTION_GROUPS:
        if key == group or key.startswith(f"{group}."):
            raise UserError(f"'{argument}': give an option as --config.{group}.NAME=VALUE")
    node = config
    for part in key.split("."):
        if not isinstance(node, ConfigDict) or part not in node:
            raise UserError(f"'{argument}': {unknown_key(key)}")
        node = node[part]
    if isinstance(node, ConfigDict):
        raise UserError(f"'{key}' is a group of keys: set one of {', '.join(node)}")


def _parse_flags(config, values, argv):
    """Parses the flags into `values` and the overrides into `config`; returns the other words."""
    command = [sys.argv[0], *argv]
    try:
        if config is not None:
            config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
        values.set_gnu_getopt(True)  # words may stand before flags
        return values(command)[1:]
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(_explain_flag(error, config)) from error


def _check_values(config, values):
    """Refuses a flag whose value is the next flag, because its own was left out."""
    for name in values:
        check_flag(name, values[name].value)
    for name, value in leaves(config, "config.") if config is not None else ():
        check_flag(name, value)


def _explain_flag(error, config):
    """Returns one line on an error that absl or ml_collections raised for a flag."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
    if not match:
        return f"{first_line(error)}; --help lists the flags, `python -m vision.config` the keys"
    key, value = match.groups()
    section, _, name = key.rpartition(".")
    kind = (config[section] if section else config).get_type(name).__name__
    return f"--config.{key} must be {KINDS[kind]}, got {value}"
