"""The command line: config files, overrides, and errors in one line.

    --config configs/resnet_cifar10.py            get_config()
    --config configs/resnet_cifar10.py:56         get_config("56")
    --config configs/resnet_cifar10.py:56:smoke   the same, shrunk to seconds
    --config.train.steps=100                      an override; its type is the schema's
    --config.model.pool=None                      back to None, for a key whose default that is

The keys, their defaults and meanings are in `vision/config/schema.py`.
"""

import ast
import contextlib
import difflib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import traceback

from absl import flags
from ml_collections import ConfigDict, config_flags

from vision.config import default
from vision.config.ranges import leaves
from vision.errors import RunError, UserError, check_flag

HELP = """
  --config FILE[:ARGUMENT][:smoke]: the experiment, with its argument; smoke shrinks it to seconds
  --config.KEY=VALUE: overrides a key; None is a value too
  --traceback: show where an error came from"""
WHICH = "which experiment? Give --config FILE, for example --config configs/vit_mnist5k.py, or a run's --workdir"
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "tuple": "numbers",
}


def run(command, argv=None):
    """Runs `command(argv)` as a program: an error of ours becomes one message on stderr and exit
    code 2, or 1.

    `--traceback` among the arguments shows where it came from.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    show = "--traceback" in argv
    # the name of a file may be no text, and is shown nonetheless
    if getattr(sys.stdout, "errors", "") == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        command([a for a in argv if a != "--traceback"])
    except (UserError, RunError) as error:
        if show:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output, such as head, has enough
        # or Python complains again as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def parse(argv, usage, define=lambda flag_values: None, fallback=None):
    """Reads `--config FILE`, its overrides, and the flags that `define(flag_values)` adds.

    Args:
        argv: arguments, without the program's name.
        usage: what `--help` prints above the flags.
        define: adds a command's own absl flags to a fresh `FlagValues`; nothing is registered
            globally.
        fallback: makes the config where there is no --config; None = there is none.

    Returns:
        (config, flag_values): the locked `ConfigDict` with every override applied, and the parsed
        flags.

    Raises:
        UserError: for an unknown flag or key, a wrong type, or a config that cannot be read.
    """
    config, values, words = parse_stage(argv, usage, define, fallback)
    if config is None:
        raise UserError(WHICH)
    if words:
        raise UserError(
            f"unexpected argument '{words[0]}': flags start with --, overrides with --config."
        )
    return config, values


def parse_stage(argv, usage, define, fallback=None):
    """Reads the arguments of a command that takes a run, or a config, and words such as files.

    Args:
        argv, usage, define: as `parse`.
        fallback: makes the config where there is no --config, so that overrides work without one;
            it may return None. None = there is none.

    Returns:
        (config, flag_values, words): as `parse`; the config is None where there is no --config and
        no `fallback`; words are what is no flag.

    Raises:
        UserError: for an unknown flag or key, a wrong type, or a config that cannot be read.
    """
    values = flags.FlagValues()
    define(values)
    if {"-h", "--help", "-help"} & set(argv):
        print(
            usage.strip(), HELP, *(f"  --{name}: {values[name].help}" for name in values), sep="\n"
        )
        sys.exit(0)
    spec, argv = _take_config(argv)
    config = load(spec) if spec is not None else fallback and fallback()
    overrides = [a for a in argv if re.match(r"--?(no)?config\.", a)]
    if config is None and overrides:
        give = "--config FILE" if fallback is None else "the --workdir of a run, which has one"
        raise UserError(f"'{overrides[0]}' overrides a config, but which? Give {give}")
    if config is not None:
        argv = [a for a in argv if not (_set_option(config, a) or _set_none(config, a))]
        for argument in argv:
            _check_key(config, argument)
    try:
        if config is not None:
            config_flags.DEFINE_config_dict(
                "config", config, flag_values=values, sys_argv=[sys.argv[0], *argv]
            )
        values.set_gnu_getopt(True)  # words may stand before flags
        words = values([sys.argv[0], *argv])[1:]
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(_explain_flag(error, config)) from error
    keys = leaves(config, "config.") if config is not None else ()
    for name, value in [*((name, values[name].value) for name in values), *keys]:
        check_flag(name, value)
    return config, values, words


def load(spec):
    """Builds the config that `PATH[:ARG][:smoke]` names; raises `UserError` with the place of the
    fault."""
    path, *arguments = spec.split(":")
    smoke = arguments[-1:] == ["smoke"]
    arguments = arguments[: len(arguments) - smoke]
    file = pathlib.Path(path)
    if not file.is_file():
        around = [*file.parent.glob("*.py"), *pathlib.Path("configs").glob("*.py")]
        near = difflib.get_close_matches(path, map(str, around), n=1, cutoff=0)
        raise UserError(
            f"no config file '{path}'" + (f"; did you mean '{near[0]}'?" if near else "")
        )
    try:
        module_spec = importlib.util.spec_from_file_location(f"config_{file.stem}", path)
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
        config = _get_config(module, path, arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(_explain(error, path)) from error
    if not isinstance(config, ConfigDict) or _schema(config) != _schema(default()):
        raise UserError(
            f"{path}: get_config() must return the ConfigDict of vision.config.default()"
        )
    return shrink(config) if smoke else config


def from_dict(values):
    """Rebuilds a config from the dict in a run's `config.json`; keys that the schema has gained
    keep their defaults."""
    config = default()

    def assign(target, source):
        for key, value in source.items():
            if isinstance(value, dict) and key in target:
                assign(target[key], value)
            elif key in target or not target.is_locked:
                target[key] = tuple(value) if isinstance(value, list) else value

    assign(config, values)
    return config


def shrink(config):
    """Makes any run last seconds: few steps, small batches, little data, the same code."""
    config.train.steps = 4
    config.train.epochs = 0.0
    config.train.batch_size = min(config.train.batch_size, 8 * max(1, config.train.accumulate))
    config.train.eval_batch_size = config.train.batch_size
    config.train.eval_every = 2
    config.log.every = 1
    config.checkpoint.every = 2
    config.imbalance.retrain_head = min(config.imbalance.retrain_head, 0.5)
    config.data.limit = 64
    config.data.workers = 0
    if config.data.image_size > 64:
        config.data.image_size = 64
    return config


def _take_config(argv):
    """Returns the config's name, None where there is none, and the other arguments."""
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


def _set_option(config, argument):
    """Applies `--config.model.options.NAME=VALUE`, whose names the schema cannot know."""
    match = re.fullmatch(r"--config\.model\.options\.(\w+)=(.*)", argument)
    if not match:
        return False
    name, value = match.groups()
    with contextlib.suppress(ValueError, SyntaxError):
        value = ast.literal_eval(value)  # else it is a plain string
    config.model.options[name] = value
    return True


def _set_none(config, argument):
    """Applies `--config.KEY=None`, so that a model which knows no such option can stand in for one
    that does."""
    key = argument.removesuffix("=None").removeprefix("--config.")
    if argument != f"--config.{key}=None" or dict(leaves(default())).get(key, "") is not None:
        return False
    group, _, name = key.rpartition(".")
    config[group][name] = None
    return True


def _get_config(module, path, arguments):
    function = getattr(module, "get_config", None)
    if not callable(function):
        raise UserError(f"{path} has no get_config(arg=None): see vision/config/schema.py")
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        given = ", ".join(map(repr, arguments)) or "no argument"
        raise UserError(f"{path}: get_config{signature} cannot be called with {given}") from error
    return function(*arguments)


def _schema(config):
    return {key for key, _ in leaves(config) if not key.startswith("model.options.")}


def _check_key(config, argument):
    match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
    if match and match.group(1).startswith("model.options"):
        raise UserError(f"'{argument}': an option is given as --config.model.options.NAME=VALUE")
    node = config
    seen = []
    for part in match.group(1).split(".") if match else ():
        if not isinstance(node, ConfigDict) or part not in node:
            raise UserError(
                f"'{argument}': " + _nearest(match.group(1), [key for key, _ in leaves(default())])
            )
        seen.append(part)
        node = node[part]
    if match and isinstance(node, ConfigDict):
        raise UserError(f"'{'.'.join(seen)}' is a group of keys: set one of {', '.join(node)}")


def _nearest(key, keys):
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if not near:  # a bare name, or the wrong group: compare the last parts
        last = {k.rpartition(".")[2]: k for k in reversed(keys)}
        near = [last[n] for n in difflib.get_close_matches(key.rpartition(".")[2], last, n=1)]
    return (
        f"no key '{key}'"
        + (f" (did you mean '{near[0]}'?)" if near else "")
        + ": vision/config/schema.py lists them all"
    )


def _explain_flag(error, config):
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
    if not match:
        return f"{_first_line(error)}; see --help and vision/config/schema.py"
    key, value = match.groups()
    group, _, name = key.rpartition(".")
    kind = (config[group] if group else config).get_type(name).__name__
    return f"--config.{key}={value}: it takes {KINDS[kind]}"


def _explain(error, path):
    """Says in one line where in the config file an exception came from."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}:{error.lineno or 1}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if f.filename == path]
    where = f"{path}:{lines[-1]}" if lines else path
    if isinstance(error, AttributeError | KeyError) and "ml_collections" in frames[-1].filename:
        key = re.search(r'Key "(\w+)"|(\w+)', str(error))
        keys = [*default(), *(key for key, _ in leaves(default()))]
        return f"{where}: " + _nearest(key.group(1) or key.group(2), keys)
    match = re.match(
        r"Could not override field '(\w+)'.*?\. (.*) is of original .* type <class '(.*)'>",
        str(error),
    )
    if match:
        name, value, kind = match.groups()
        return f"{where}: '{name}' takes {KINDS.get(kind, 'a group of keys')}, not {value}"
    return f"{where}: {type(error).__name__}: {_first_line(error)}"


def _first_line(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
