"""A run's directory: its config, and what may differ when a run is resumed."""

import contextlib
import json
import pathlib

from absl import flags

from vision.config import default
from vision.config.load import from_dict
from vision.errors import UserError
from vision.support.files import replacing

# These change how a run is computed or shown, not what it computes.
FREE = (
    *(
        "compile_cache",
        "data.workers",
        "data.resident_gib",
        "train.eval_batch_size",
        "log.",
        "parallel.",
    ),
    *(
        "checkpoint.every",
        "checkpoint.keep_",
        "train.steps_per_dispatch",
        "profile",
        "audit.",
        "evaluation.",
    ),
)
FIRST = "representation"  # the directory of the first of two trainings, in that of the run
PRUNED = "model.options.pruned."  # shapes, of which one alone tells nobody anything


def open_workdir(path, config):
    """Makes the directory and writes `config.json`; where it holds a run already, checks that the
    configs agree.

    Returns:
        The directory as a `pathlib.Path`.

    Raises:
        UserError: if it holds another run's config, with the keys that differ; or files that are no
            run.
    """
    path = pathlib.Path(path)
    ours = json.loads(json.dumps(config.to_dict()))
    file = path / "config.json"
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir {path} is a file: give a directory")
    if file.exists():
        _compare(_read(file), ours, path)
    elif path.exists() and {each.name for each in path.iterdir()} - {"config.json.tmp", FIRST}:
        # The former is of a start that was killed, the latter of a first training before this one.
        raise UserError(
            f"--workdir {path} holds files but no run (no config.json): give a new or empty directory"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with replacing(file) as written:
            json.dump(ours, written, indent=2)
    except OSError as error:
        raise UserError(f"cannot write to --workdir {path}: {error.strerror}") from error
    return path


def has_checkpoints(path: pathlib.Path | str) -> bool:
    """Returns whether a run's directory holds a finished checkpoint."""
    steps = pathlib.Path(path, "checkpoints").glob("*")  # those being written have longer names
    return any(step.name.isdecimal() for step in steps)


def write_data(path, data):
    """Writes `data.json`: what whoever uses the run's model must know of its data, a
    `vision.data.pipeline.Data`."""
    known = {
        "classes": list(data.classes),
        "image_size": data.image_size,
        "channels": data.channels,
    }
    known |= {
        "class_counts": data.class_counts.tolist(),
        "split_sizes": {k: len(f) for k, f in data.loaders.items()},
    }
    if (path / "data.json").is_file():
        before = _read(path / "data.json")
        differ = [k for k in ("classes", "image_size", "channels") if before.get(k) != known[k]]
        if differ:
            raise UserError(
                f"--workdir {path} holds a run on other data: {differ[0]} is {_some(before.get(differ[0]))} there, "
                f"{_some(known[differ[0]])} here.\nGive another --workdir, or the data of that run"
            )
    with replacing(path / "data.json") as written:
        json.dump(known, written, indent=1)


def _some(value):
    text = str(value)
    return text if len(text) < 100 else text[:100] + " ..."


def read_run(path):
    """Returns (config, data): the `ConfigDict` of a run's directory, and the dict of its
    `data.json`.

    Raises:
        UserError: it is no run's directory.
    """
    path = pathlib.Path(path)
    for name in ("config.json", "data.json"):
        if not (path / name).is_file():
            raise UserError(
                f"{path} is no run's directory: it has no {name}. Give the --workdir of a training"
            )
    return from_dict(_read(path / "config.json")), _read(path / "data.json")


def own_config(argv):
    """Returns the config of the run that --workdir names among a command's arguments; None where it
    names none.

    The `fallback` of `vision.config.flags.parse_stage`, so that overrides change what the run has.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    values.set_gnu_getopt(True)
    # the command's own flags are checked where all of them are known
    with contextlib.suppress(flags.Error):
        values(["", *argv], known_only=True)
    file = pathlib.Path(values["workdir"].value, "config.json")
    return from_dict(_read(file)) if values["workdir"].value and file.is_file() else None


def _read(file):
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): give another --workdir") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} is no run's config: give a new or empty directory")
    return config


def _compare(theirs, ours, path):
    # what a key was that the schema gained since
    usual = _flatten(json.loads(json.dumps(default().to_dict())))
    theirs = usual | _flatten(theirs)
    ours = _flatten(ours)
    keys = [
        key
        for key in sorted(theirs | ours)
        if theirs.get(key) != ours.get(key)
        and not key.startswith(FREE)
        # A new head starts from a directory inside this one, which may be named in other words, or
        # have moved.
        and not (key == "model.pretrained" and ours.get("imbalance.retrain_head"))
    ]
    differ = [
        f"{key} is {theirs.get(key, 'unset')!r} there, {ours.get(key, 'unset')!r} here"
        for key in keys
        if not key.startswith(PRUNED)
    ]
    if len(differ) < len(keys):
        differ.insert(0, f"its model is pruned to other widths ({PRUNED}*)")
    if differ:
        some = "; ".join(differ[:8]) + (f"; and {len(differ) - 8} more" if len(differ) > 8 else "")
        raise UserError(
            f"--workdir {path} holds another config's run: {some}.\n"
            "Give another --workdir, or that config; without --config a run goes on with its own"
        )


def _flatten(tree, prefix=""):
    flat = {}
    for key, value in tree.items():
        flat |= (
            _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
