"""Config files: a Python file with `get_config()`, or the dict in a run's `config.json`.

configs/resnet_cifar10.py            get_config()
configs/resnet_cifar10.py:56         get_config("56")
configs/resnet_cifar10.py:56:smoke   the same, shrunk to seconds
"""

import difflib
import importlib.util
import inspect
import pathlib
import re
import traceback
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vision.config import shipped
from vision.config.schema import OPTION_GROUPS, SECTIONS, all_keys, default
from vision.config.validate import leaves, validate
from vision.errors import UserError, first_line, shown
from vision.support.reading import read_json
from vision.support.schema import damaged

KINDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a tuple of numbers",
    "ConfigDict": "a group of keys",
}
# Values of keys for the configs of runs that were written before the key existed.
BEFORE = {"data.split_by": "position"}
# Keys of older configs whose place other keys have taken; see `_replace`.
REPLACED = ("data.per_class",)
LIST_KEYS = "`python -m vision.config` lists them all"


def load(spec: str) -> ConfigDict:
    """Returns the config that `PATH[:ARGUMENT...][:smoke]` names.

    PATH may be that of a config which came with this package (`vision.config.shipped`).

    Raises:
        UserError: if there is no such file, or it fails; names the line.
    """
    path, *arguments = spec.split(":")
    smoke = arguments[-1:] == ["smoke"]
    if smoke:
        arguments = arguments[:-1]
    path = shipped.locate(path)
    if not pathlib.Path(path).is_file():
        raise UserError(f"no config file '{path}'{nearest_file(path)}")
    try:
        config = _run_file(path, arguments)
    except UserError:
        raise
    except Exception as error:  # the file is the user's code, which may raise anything
        raise UserError(explain(error, path)) from error
    if not isinstance(config, ConfigDict) or _names(config) != _names(default()):
        raise UserError(
            f"{path}: get_config() must return the ConfigDict of vision.config.default()"
        )
    return shrink(config) if smoke else config


def is_config(spec: str) -> bool:
    """Whether a word names a config file, "FILE[:ARGUMENT]", and not a source, run or bundle."""
    return spec.partition(":")[0].endswith(".py")


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
    """Rebuilds a config from the dict in a run's `config.json`.

    Keys that the schema has gained since keep their defaults, or have the value by which older code
    computed; keys that it has lost are ignored, if none has taken their place.

    Raises:
        UserError: a value has another type than its key; names the key.
    """
    config = default()
    for key, value in BEFORE.items():
        group, _, name = key.partition(".")
        config[group][name] = value
    _assign(config, values, "")
    _replace(config, values)
    return config


def read_config(
    file: pathlib.Path | str, remedy: str = "give another --workdir"
) -> tuple[ConfigDict, dict[str, Any]]:
    """Returns a run's config and the dict in its file, after checking every number.

    Raises:
        UserError: the file cannot be read, or is not the config of a run.
    """
    values = read_json(file, dict, remedy)
    return checked_config(values, file, remedy), values


def checked_config(values: Mapping[str, Any], file: Any, remedy: str = "") -> ConfigDict:
    """Returns the config in a dict that was read from a file, after checking every number.

    Raises:
        UserError: it is not the config of a run; names the file.
    """
    try:
        config = from_dict(values)
        validate(config)
    except UserError as error:
        raise damaged(file, str(error), remedy) from error
    return config


def override(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of a config with other values of some keys.

    Args:
        config: the config.
        values: {key: value}, such as {"train.steps": 100, "model.options.width": 32}.

    Raises:
        UserError: a key is unknown, or its value has the wrong type or is out of range.
    """
    config = config.copy_and_resolve_references()
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if key not in all_keys() and section not in OPTION_GROUPS:
            raise UserError(unknown_key(key))
        nested = {name: value}
        for part in reversed(section.split(".") if section else ()):
            nested = {part: nested}
        _assign(config, nested, "")
    validate(config)
    return config


def shrink(config: ConfigDict) -> ConfigDict:
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
    config.data.labels = config.data.labels and "1/class"
    config.data.workers = 0
    if config.data.image_size > 64:
        config.data.image_size = 64
    return config


def unknown_key(key: str, keys: list[str] | None = None) -> str:
    """Returns the message for a key that is not in the schema, with the nearest one.

    Args:
        key: the unknown key, such as "train.stps".
        keys: names that it may stand for; None for the keys that are not groups.
    """
    return f"no key '{key}'{nearest_hint(key, keys)}: {LIST_KEYS}"


def nearest_hint(key: str, keys: list[str] | None = None) -> str:
    """Returns " (did you mean 'NAME'?)" with the nearest of `keys`, as `unknown_key` takes them.

    It is "" if none is near.
    """
    keys = [name for name, _ in leaves(default())] if keys is None else keys
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if not near:  # a bare name, or the wrong group: compare the last parts
        by_last_part = {name.rpartition(".")[2]: name for name in reversed(keys)}
        matches = difflib.get_close_matches(key.rpartition(".")[2], by_last_part, n=1)
        near = [by_last_part[match] for match in matches]
    return f" (did you mean '{near[0]}'?)" if near else ""


def read_module(path: str) -> types.ModuleType:
    """Runs a Python file of the user's, which may raise anything, and returns it as a module."""
    spec = importlib.util.spec_from_file_location(f"config_{pathlib.Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    if pathlib.Path(path).is_relative_to(shipped.folder()):
        shipped.make_importable()
    spec.loader.exec_module(module)
    return module


def nearest_file(path: str, folder: str = "configs") -> str:
    """Returns "; did you mean 'FILE'?" with the Python file that is nearest to a missing one."""
    files = [*pathlib.Path(path).parent.glob("*.py"), *pathlib.Path(folder).glob("*.py")]
    choices = [*map(str, files), *shipped.names()]
    near = difflib.get_close_matches(path, choices, n=1, cutoff=0)
    return f"; did you mean '{near[0]}'?" if near else ""


def _run_file(path, arguments):
    """Runs a config file and returns what its `get_config(*arguments)` returns."""
    function = getattr(read_module(path), "get_config", None)
    if not callable(function):
        raise UserError(
            f"{path} has no get_config(arg=None): see configs/digits.py for the form of a config"
        )
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        given = ", ".join(map(repr, arguments)) or "no argument"
        raise UserError(f"{path}: get_config{signature} cannot be called with {given}") from error
    return function(*arguments)


def _names(config):
    """Returns the set of a config's keys, without those of option groups, which are free."""
    groups = tuple(f"{name}." for name in OPTION_GROUPS)
    return {key for key, _ in leaves(config) if not key.startswith(groups)}


def _assign(target, source, prefix):
    for key, value in source.items():
        name = f"{prefix}{key}"
        if key in target and isinstance(target[key], ConfigDict):
            if not isinstance(value, dict):
                raise UserError(f"{name} must be {KINDS['ConfigDict']}, got {shown(value)}")
            _assign(target[key], value, f"{name}.")
        elif key in target or not target.is_locked:
            try:
                target[key] = tuple(value) if isinstance(value, list) else value
            # another type than the key's; a name that a ConfigDict cannot have, such as "a.b"
            except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
                kind = target.get_type(key).__name__ if key in target else ""
                rule = KINDS.get(kind, "an option")
                raise UserError(f"{name} must be {rule}, got {shown(value)}") from error


def _replace(config, values):
    """Sets the keys that have taken the place of those in `REPLACED`.

    Raises:
        UserError: a value has another type than its key had.
    """
    data = values.get("data")
    per_class = data.get("per_class") if isinstance(data, dict) else None
    if not per_class:
        return
    if type(per_class) is not int:
        raise UserError(f"data.per_class must be {KINDS['int']}, got {shown(per_class)}")
    config.data.labels = f"<={per_class}/class"
    config.data.labels_seed = config.seed


def explain(error: Exception, path: str) -> str:
    """Returns one line on an exception, and where in a file of the user's it came from."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}:{error.lineno or 1}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    where = f"{path}:{lines[-1]}" if lines else path
    if isinstance(error, AttributeError | KeyError) and "ml_collections" in frames[-1].filename:
        match = re.search(r'Key "(\w+)"|(\w+)', str(error))
        key = (match.group(1) or match.group(2)) if match else str(error)
        return f"{where}: {unknown_key(key, [*SECTIONS, *all_keys()])}"
    match = re.match(
        r"Could not override field '(\w+)'.*?\. (.*) is of original .* type <class '(.*)'>",
        str(error),
    )
    if match:
        name, value, kind = match.groups()
        return f"{where}: '{name}' must be {KINDS.get(kind, 'a group of keys')}, got {value}"
    return f"{where}: {type(error).__name__}: {first_line(error)}"
