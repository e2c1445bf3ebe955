"""Keeps the weights of finished rows in experiments/weights, where kept:NAME finds them."""

import csv
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.measured import RESULTS
from experiments.readme import fill
from experiments.row import HERE, Place, Row
from vision.errors import UserError
from vision.models.weights import kept
from vision.support.digest import sha256
from vision.support.files import replacing_path, write_json
from vision.support.reading import read_json

FOLDER = HERE / "weights"
LARGEST = 10e6  # bytes, all files together
LARGEST_OF_EXPERIMENT = 2e6  # bytes, so that one long table does not take all
LEFT_OUT = "left_out.json"  # {name: {"experiment", "row", "reason"}}
LEFT_OUT_SCHEMA = {str: {"experiment": str, "row": str, "reason": str}}
BEFORE = "finished before weights were kept by themselves"


def keep(row: Row, seed: int, place: Place) -> None:
    """Writes the weights of a finished row, and what they are; or why they are not kept.

    Kernels are float16; vectors, whose statistics may be out of its range, float32. Weights that
    are too large, or that no architecture reads from a file, are left out, and the table says so.
    """
    workdir = place.directory(row.name, seed)
    index = kept.read_index(FOLDER)
    name = _name(row, place, index) or f"{place.name}-{workdir.name}"
    file = workdir / RESULTS[row.command]
    if not file.is_file():
        print(f"{name}: {workdir} is not finished")
        return
    of_run = _of_run(row, json.loads(file.read_text()))
    if name in index and of_run.items() <= index[name].items():
        return
    path = FOLDER / f"{name}.safetensors"
    try:
        of_model = _write(_last_training(row, workdir), path, place.name, index)
    except UserError as error:
        reason = str(error).partition("\n")[0].replace(str(workdir), "its run")
        print(f"{name} is not kept: {reason}")
        _note_left_out(name, {"experiment": place.name, "row": row.name, "reason": reason})
        fill_page()
        return
    index[name] = {
        "file": path.name,
        "sha256": sha256(path),
        "experiment": place.name,
        "row": row.name,
        "seed": row.flags.get("seed", seed),
        "config": row.config,
        "flags": {key: str(value) for key, value in row.flags.items()},
        **of_run,
        **of_model,
    }
    write_json(FOLDER / kept.INDEX, index)
    _note_left_out(name, None)
    fill_page()
    megabytes = path.stat().st_size / 1e6
    print(f"{name}: {megabytes:.1f} MB; model.pretrained={kept.PREFIX}{name} starts from it")


def fill_page() -> None:
    """Fills both tables of the weights' README: what is kept, and what is not."""
    index = kept.read_index(FOLDER)
    fill(FOLDER / "README.md", _table(index))
    fill(FOLDER / "README.md", _table_of_left_out(index), "left out")


def _name(row: Row, place: Place, index: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the name under which a row has been kept before; "" if it has not."""
    names = (
        name for name, e in index.items() if (e["experiment"], e["row"]) == (place.name, row.name)
    )
    return next(names, "")


def _of_run(row: Row, result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the index says of a row's run, by its result.json or sequence.json."""
    return {
        # None of a row whose classifier has learned nothing.
        "accuracy": result["accuracy"] if row.accuracy else None,
        "date": result["date"][:10],
        "commit": (result["git_commit"] or "")[:8],
    }


def _last_training(row: Row, workdir: pathlib.Path) -> pathlib.Path:
    """Returns the directory of the training with a row's last weights: of a sequence, one of many.

    Raises:
        UserError: it is gone.
    """
    if row.command != "vision.continual":
        return workdir
    tasks = {int(path.name.removeprefix("task-")): path for path in workdir.glob("task-*")}
    if not tasks:
        raise UserError(f"{workdir} has no task-N any more")
    return tasks[max(tasks)]


def _write(
    workdir: pathlib.Path, path: pathlib.Path, experiment: str, index: Mapping[str, Mapping]
) -> dict[str, Any]:
    """Writes a run's weights and returns what a later run must know of them.

    Raises:
        UserError: the architecture's weights cannot be read from a file, or there is no room.
    """
    from safetensors.numpy import save_file

    from vision.run.weights import run_weights

    config, data, arrays = run_weights(workdir)
    with replacing_path(path) as temporary:
        save_file(_in_file(config.model.name, arrays), temporary, metadata={"format": "pt"})
        others = [entry for entry in index.values() if entry["file"] != path.name]
        _check_room(temporary.stat().st_size, experiment, others)
    return _of_model(config, data)


def _check_room(size: int, experiment: str, others: list[Mapping]) -> None:
    """Raises `UserError` if a file is too large to be kept beside the others.

    Args:
        size: of the file, bytes.
        experiment: whose it is.
        others: entries of the index.
    """
    siblings = [entry for entry in others if entry["experiment"] == experiment]
    for limit, entries, whose in (
        (LARGEST_OF_EXPERIMENT, siblings, "an experiment"),
        (LARGEST, others, "all experiments"),
    ):
        present = sum((FOLDER / entry["file"]).stat().st_size for entry in entries)
        if present + size > limit:
            raise UserError(
                f"its {size / 1e6:.1f} MB are too much beside {present / 1e6:.1f} MB: the limit of "
                f"{whose} is {limit / 1e6:.0f} MB"
            )


def _note_left_out(name: str, entry: Mapping[str, str] | None) -> None:
    """Sets or, with None, removes what left_out.json says of a run."""
    entries = _left_out()
    before = entries.get(name)
    if before == entry:
        return
    if entry is None:
        del entries[name]
    else:
        entries[name] = entry
    write_json(FOLDER / LEFT_OUT, entries)


def _left_out() -> dict[str, Mapping[str, str]]:
    file = FOLDER / LEFT_OUT
    return read_json(file, LEFT_OUT_SCHEMA) if file.is_file() else {}


def _in_file(architecture: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns {name in the file: array} of {our name: array}."""
    from vision.export.safetensors import to_timm
    from vision.models.weights.names import file_name, to_torch_layout
    from vision.support.modules import find

    module = find("model", architecture, "vision.models")
    schemes = getattr(module, "NAMES", {})
    if not schemes:
        raise UserError(f"model '{architecture}' defines no NAMES, by which a file could be read")
    if "timm" in schemes:
        named = to_timm(module, arrays)
    else:
        rules = next(iter(schemes.values()))
        named = {
            file_name(name, rules): to_torch_layout(array, name.endswith("kernel"))
            for name, array in arrays.items()
        }
    return {
        name: np.ascontiguousarray(array, np.float16 if array.ndim > 1 else np.float32)
        for name, array in named.items()
    }


def _of_model(config: Any, data: dict[str, Any]) -> dict[str, Any]:
    """Returns what a later run must know of the model and of its images."""
    from vision.data.pipeline import interpolation_of
    from vision.export.safetensors import NORMALIZE

    d = config.data
    mean = list(d.mean)
    std = list(d.std)
    if d.normalize != "mean_std":
        mean, std = ([value] * data["channels"] for value in NORMALIZE[d.normalize])
    return {
        "model": config.model.name,
        "variant": config.model.variant,
        "options": config.model.options.to_dict(),
        "classes": list(data["classes"]),
        "image_size": data["image_size"],
        "crop": d.crop_fraction or 1.0,
        "interpolation": interpolation_of(d),
        "mean": mean,
        "std": std,
    }


def _table(index: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["| name | model | row | test accuracy | MB | SHA-256 |", "|---|---|---|---|---|---|"]
    for name, entry in sorted(index.items()):
        size = pathlib.Path(FOLDER, entry["file"]).stat().st_size / 1e6
        row = f"[{entry['experiment']}](../{entry['experiment']}/README.md), {entry['row']}"
        cells = (
            f"`{name}`",
            f"{entry['model']} {entry['variant']}",
            f"{row}, seed {entry['seed']}",
            "" if entry["accuracy"] is None else f"{100 * entry['accuracy']:.2f} %",
            f"{size:.1f}",
            f"`{entry['sha256']}`",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _table_of_left_out(index: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a table of the rows in the experiments' results.csv without weights here, and why."""
    present = {(entry["experiment"], entry["row"]) for entry in index.values()}
    reasons = {(e["experiment"], e["row"]): e["reason"] for e in _left_out().values()}
    rows: dict[tuple[str, str], list[str]] = {}
    for file in sorted(HERE.glob("*/results.csv")):
        experiment = file.parent.name
        if not (file.parent / "rows.py").is_file():
            continue
        with file.open(newline="") as lines:
            names = dict.fromkeys(line["row"] for line in csv.DictReader(lines))
        for name in names:
            if (experiment, name) not in present:
                reason = reasons.get((experiment, name), BEFORE)
                rows.setdefault((experiment, reason), []).append(name)
    lines = ["| experiment | rows | why not |", "|---|---|---|"]
    for (experiment, reason), names in rows.items():
        link = f"[{experiment}](../{experiment}/README.md)"
        lines.append(f"| {link} | {'; '.join(names)} | {reason} |")
    return lines
