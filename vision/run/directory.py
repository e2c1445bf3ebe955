"""A run directory: its config, its data, and what may differ when a run is resumed."""

import contextlib
import datetime
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from vision.config.load import REPLACED, from_dict, read_config
from vision.data.division import DIGESTS
from vision.errors import UserError
from vision.support import disk
from vision.support.files import ABANDONED, write_json
from vision.support.lock import NAME as LOCK
from vision.support.reading import read_json
from vision.support.schema import NATURAL, SIDE, among, check, damaged, filled

# Keys, and beginnings of keys, that change how a run is computed or shown, not what it computes.
FREE = (
    "audit.",
    "checkpoint.every",
    "checkpoint.keep_",
    "checkpoint.mode",  # follows from the metric; old configs have "max" for every one
    "compile_cache",
    "data.allow_changes",
    "data.resident_gib",
    "data.workers",
    "data.worker_timeout",
    "evaluation.",
    "log.",
    "parallel.",
    "profile",
    "train.eval_batch_size",
    "train.steps_per_dispatch",
)
FIRST = "representation"  # the first of two trainings: its directory inside that of the run
PRUNED = "model.options.pruned."  # shapes, which mean nothing one by one
MOST_DIFFERENCES = 8  # keys that a message lists
MOST_CHARACTERS = 100  # of a value in a message
DATA = {
    "classes": filled(str),
    "image_size": SIDE,
    "channels": among(1, 3),
    "class_counts?": [NATURAL],
    "split_sizes?": {str: NATURAL},
    "splits?": DIGESTS,
    "tasks?": [{"source": str, "classes": [str], "test": NATURAL}],
}


def open_workdir(path: pathlib.Path | str, config: ConfigDict) -> pathlib.Path:
    """Creates a run directory and writes config.json.

    If it holds a run already, checks that the configs agree.

    Returns:
        The directory.

    Raises:
        UserError: it holds the run of another config (names the keys that differ), or files that
            are not a run.
    """
    path = pathlib.Path(path)
    values = _as_json(config)
    file = path / "config.json"
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir {path} is a file: give a directory")
    if file.exists():
        _check_same(read_config(file)[1], values, path)
    elif path.exists() and any(map(_is_foreign, path.iterdir())):
        raise UserError(
            f"--workdir {path} holds files but no run (no config.json): give a new or empty "
            "directory"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_json(file, values)
    except OSError as error:
        raise disk.failed(f"--workdir {path}", error) from error
    return path


def _is_foreign(entry: pathlib.Path) -> bool:
    """Returns whether an entry of a directory is neither of this run, nor of a start of it."""
    # A start that was killed leaves temporary files, a first training its directory.
    return entry.name not in (LOCK, FIRST) and not ABANDONED.fullmatch(entry.name)


def check_config(path: pathlib.Path, config: ConfigDict) -> None:
    """Raises `UserError` if a directory holds the run of another config; names the keys."""
    _check_same(read_config(path / "config.json")[1], _as_json(config), path)


def has_checkpoints(path: pathlib.Path | str) -> bool:
    """Returns whether a run directory holds a finished checkpoint."""
    steps = pathlib.Path(path, "checkpoints").glob("*")  # unfinished ones have longer names
    return any(step.name.isdecimal() for step in steps)


def write_data(path: pathlib.Path, data: Any, more: Mapping[str, Any] | None = None) -> None:
    """Writes data.json: all that a user of the run's model must know of its data.

    Args:
        path: the run directory.
        data: a `vision.data.pipeline.Data`.
        more: further entries.

    Raises:
        UserError: the directory holds a run on data with other classes, image size or channels.
    """
    description = {
        "classes": list(data.classes),
        "image_size": data.image_size,
        "channels": data.channels,
        "class_counts": data.class_counts.tolist(),
        "split_sizes": {name: len(loader) for name, loader in data.loaders.items()},
    } | dict(more or {})
    file = path / "data.json"
    if file.is_file():
        theirs = read_data(path)
        for key in ("classes", "image_size", "channels"):
            if theirs.get(key) != description[key]:
                raise UserError(
                    f"--workdir {path} holds a run on other data: {key} is "
                    f"{_shorten(theirs.get(key))} there, {_shorten(description[key])} here.\n"
                    "Give another --workdir, or the data of that run"
                )
    write_json(file, description)


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) < MOST_CHARACTERS else text[:MOST_CHARACTERS] + " ..."


def read_run(path: pathlib.Path | str) -> tuple[ConfigDict, dict[str, Any]]:
    """Returns (config, data): the config of a run directory, and the contents of its data.json.

    Raises:
        UserError: it is not a run directory.
    """
    path = pathlib.Path(path)
    for name in ("config.json", "data.json"):
        if not (path / name).is_file():
            raise UserError(
                f"{path} is not a run directory: it has no {name}. Give the --workdir of a training"
            )
    return read_config(path / "config.json")[0], read_data(path)


def read_data(path: pathlib.Path | str) -> dict[str, Any]:
    """Returns the contents of a run directory's data.json.

    Raises:
        UserError: it cannot be read, or is damaged.
    """
    file = pathlib.Path(path, "data.json")
    return check_data(read_json(file), file)


def check_data(values: Any, file: Any, key: str = "") -> dict[str, Any]:
    """Returns what data.json must contain; raises `Damaged` if it does not.

    Args:
        values: what was read.
        file: where, for messages.
        key: name of the values in that file; "" for all of it.
    """
    remedy = "give another --workdir"
    check(values, DATA, file, remedy, key)
    counts = values.get("class_counts")
    if counts is not None and len(counts) != len(values["classes"]):
        raise damaged(file, "class_counts must have a number for each class", remedy)
    return values


def new_workdir(argv: Sequence[str]) -> pathlib.Path:
    """Returns a directory under runs/, named after the --config of a command line and the time."""
    spec = next((a.removeprefix("--config=") for a in argv if a.startswith("--config=")), None)
    return workdir_for(title_of(spec or argv[argv.index("--config") + 1]))


def title_of(spec: str) -> str:
    """Returns what a run is named after, of a config's "FILE[:ARGUMENT]"."""
    path, *arguments = spec.split(":")
    return "-".join([pathlib.Path(path).stem, *arguments])


def workdir_for(title: str) -> pathlib.Path:
    """Returns a directory under runs/, named after what is trained and the time."""
    stem = title.replace("/", "_")
    now = datetime.datetime.now()
    return pathlib.Path("runs") / f"{stem}-{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}"


def named_workdir(argv: Sequence[str]) -> str:
    """Returns the --workdir of a command line; "" without one."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    values.set_gnu_getopt(True)
    # The command checks its own flags later.
    with contextlib.suppress(flags.Error):
        values(["", *argv], known_only=True)
    return values["workdir"].value or ""


def own_config(argv: Sequence[str]) -> ConfigDict | None:
    """Returns the config of the run that --workdir names on a command line, None without one.

    The `fallback` of `vision.config.flags.parse_stage`, so that overrides change the run's config.
    """
    workdir = named_workdir(argv)
    file = pathlib.Path(workdir, "config.json")
    return read_config(file)[0] if workdir and file.is_file() else None


def resumed_config(path: str | os.PathLike[str]) -> ConfigDict | None:
    """Returns the config with which a training resumes the run in a directory; None without a run.

    Of a run of two trainings (`imbalance.retrain_head`), the second's config has only the head to
    train, so this is the first's, with the section `imbalance` of the second once that has begun.

    Raises:
        UserError: config.json is damaged, or the first of two trainings is missing.
    """
    last = pathlib.Path(path, "config.json")
    first = pathlib.Path(path, FIRST, "config.json")
    config = read_config(last)[0] if last.is_file() else None
    if config is not None and not config.imbalance.retrain_head:
        return config
    if not first.is_file():
        if config is None:
            return None
        raise UserError(
            f"{path} has lost the first of its two trainings, {FIRST}/: give its config, or "
            "another directory"
        )
    of_both = read_config(first)[0]
    if config is not None:
        of_both.imbalance = config.imbalance
    return of_both


def _as_json(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as json.load would read it, so that it can be compared."""
    return json.loads(json.dumps(config.to_dict()))


def _check_same(theirs: dict[str, Any], ours: dict[str, Any], path: pathlib.Path) -> None:
    """Raises `UserError` if the config of a directory's run differs from ours."""
    # An old run's config lacks the keys that the schema has gained since.
    written = {key: value for key, value in flatten(theirs).items() if key not in REPLACED}
    theirs = flatten(_as_json(from_dict(theirs))) | written
    ours = flatten(ours)
    keys = [
        key
        for key in sorted(theirs | ours)
        if theirs.get(key) != ours.get(key) and not _may_differ(key, ours)
    ]
    differences = [
        f"{key} is {theirs.get(key, 'unset')!r} there, {ours.get(key, 'unset')!r} here"
        for key in keys
        if not key.startswith(PRUNED)
    ]
    if len(differences) < len(keys):
        differences.insert(0, f"its model is pruned to other widths ({PRUNED}*)")
    if not differences:
        return
    listed = "; ".join(differences[:MOST_DIFFERENCES])
    more = len(differences) - MOST_DIFFERENCES
    if more > 0:
        listed += f"; and {more} more"
    raise UserError(
        f"--workdir {path} holds a run with another config: {listed}.\n"
        "Give another --workdir, or that config; without --config a run is resumed with its own"
    )


def _may_differ(key: str, config: Mapping[str, Any]) -> bool:
    # A second training starts from a directory inside its own, which may have moved, or be spelled
    # in another way.
    starts_inside = key == "model.pretrained" and config.get("imbalance.retrain_head")
    return key.startswith(FREE) or bool(starts_inside)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"a.b": value} of nested dicts, such as a config.json."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
