"""Keeps the weights of finished rows in experiments/weights, where kept:NAME finds them."""

import csv
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.measured import RESULTS
from experiments.readme import fill
from experiments.row import HERE, Place, Row
from vision.errors import UserError
from vision.models.weights import kept
from vision.support.files import replacing, write_json
from vision.support.lock import locked
from vision.support.reading import read_json

FOLDER = HERE / "weights"
LARGEST = 10e6  # bytes, all files together
LARGEST_OF_EXPERIMENT = 2e6  # bytes, so that one long table does not take all
# Of a row that was left out. Newer ones also have what the index says of the run, and its weights'
# size if that was known: an unchanged run is not read again to find that there is still no room.
LEFT_OUT = "left_out.json"
LEFT_OUT_SCHEMA = {str: {"experiment": str, "row": str, "reason": str, "bytes?": int}}
PATIENCE = 600.0  # seconds to wait for other measurements that keep weights
NOT_KEPT = "its seed 0 has not been kept: run `--keep` with its run directory"


def keep(row: Row, seed: int, place: Place, replaces: bool = False) -> None:
    """Writes the weights of a finished row, and what they are; or why they are not kept.

    Kernels are float16; vectors, whose statistics may be out of its range, float32. Weights that
    are too large, or that no architecture reads from a file, are left out, and the table says so.
    Other measurements that keep weights are waited for.

    Args:
        row: the row.
        seed: of the run.
        place: where the run is.
        replaces: whether to look at the run even if its weights are kept or were left out: if it is
            another run than that, its weights take the place of those.

    Raises:
        UserError: another process has kept the folder locked for too long.
    """
    with locked(FOLDER, "the folder", patience=PATIENCE):
        _keep(row, seed, place, replaces)


def _keep(row, seed, place, replaces):
    workdir = place.directory(row.name, seed)
    index = kept.read_index(FOLDER)
    which = {"experiment": place.name, "row": row.name, "seed": row.flags.get("seed", seed)}
    name = _name(which, index) or f"{place.name}-{workdir.name}"
    file = workdir / RESULTS[row.command]
    if not file.is_file():
        print(f"{name}: {workdir} is not finished")
        return
    of_run = _of_run(row, json.loads(file.read_text()))
    if name in index and (not replaces or of_run.items() <= index[name].items()):
        return
    others = [entry for key, entry in index.items() if key != name]
    if not replaces and _is_left_out(name, of_run, others):
        return
    size = {}
    try:
        weights, of_model = _read(_last_training(row, workdir))
        size = {"bytes": len(weights)}
        _check_room(len(weights), place.name, others)
    except UserError as error:
        reason = str(error).partition("\n")[0].replace(str(workdir), "its run")
        print(f"{name} is not kept: {reason}")
        _note_left_out(name, {**which, "reason": reason, **of_run, **size})
        _fill_page()
        return
    settings = {"config": row.config, "flags": {k: str(value) for k, value in row.flags.items()}}
    _write(name, weights, {**which, **settings, **of_run, **of_model}, index)
    _note_left_out(name, None)
    _fill_page()
    megabytes = len(weights) / 1e6
    print(f"{name}: {megabytes:.1f} MB; model.pretrained={kept.PREFIX}{name} starts from it")


def fill_page() -> None:
    """Fills both tables of the weights' README: what is kept, and what is not.

    Raises:
        UserError: another process has kept the folder locked for too long.
    """
    with locked(FOLDER, "the folder", patience=PATIENCE):
        _fill_page()


def _fill_page():
    index = kept.read_index(FOLDER)
    fill(FOLDER / "README.md", _table(index))
    fill(FOLDER / "README.md", _table_of_left_out(index), "left out")


def _name(which: Mapping[str, Any], index: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the name under which a row and seed have been kept before; "" if they have not."""
    names = (name for name, entry in index.items() if which.items() <= entry.items())
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


def _read(workdir: pathlib.Path) -> tuple[bytes, dict[str, Any]]:
    """Returns (a run's weights as a safetensors file, what a later run must know of them).

    Raises:
        UserError: the run has none, or the architecture's weights cannot be read from a file.
    """
    from safetensors.numpy import save

    from vision.run.weights import run_weights

    config, data, arrays = run_weights(workdir)
    weights = save(_in_file(config.model.name, arrays), metadata={"format": "pt"})
    return weights, _of_model(config, data)


def _write(
    name: str, weights: bytes, entry: Mapping[str, Any], index: dict[str, dict[str, Any]]
) -> None:
    """Writes weights, then the index with their entry, which describes a file that is there.

    Weights that are replaced keep their file until then, so that a kill leaves either these or the
    new ones.
    """
    digest = hashlib.sha256(weights).hexdigest()
    path = FOLDER / f"{name}.safetensors"
    if path.name in {other["file"] for other in index.values()}:
        path = FOLDER / f"{name}-{digest[:8]}.safetensors"
    with replacing(path, binary=True) as file:
        file.write(weights)
    old = {index[name]["file"]} if name in index else set()
    index[name] = {"file": path.name, "sha256": digest, **entry}
    write_json(FOLDER / kept.INDEX, index)
    # The file that was replaced, and what was left by a process that was killed above.
    pattern = re.compile(rf"{re.escape(name)}(-[0-9a-f]{{8}})?\.safetensors")
    old |= {other.name for other in FOLDER.iterdir() if pattern.fullmatch(other.name)}
    for other in old - {entry["file"] for entry in index.values()}:
        (FOLDER / other).unlink(missing_ok=True)


def _check_room(size: int, experiment: str, others: list[Mapping[str, Any]]) -> None:
    """Raises `UserError` if a file is too large to be kept beside the others.

    Args:
        size: of the file, bytes.
        experiment: whose it is.
        others: entries of the index.
    """
    siblings = [entry for entry in others if entry["experiment"] == experiment]
    for limit, entries, whose in (
        (LARGEST_OF_EXPERIMENT, siblings, "the experiment's limit"),
        (LARGEST, others, "all experiments' limit"),
    ):
        used = sum((FOLDER / entry["file"]).stat().st_size for entry in entries)
        if used + size > limit:
            raise UserError(
                f"{size / 1e6:.1f} MB would exceed {whose} of {limit / 1e6:.0f} MB "
                f"({used / 1e6:.1f} MB are used)"
            )


def _is_left_out(name: str, of_run: Mapping[str, Any], others: list[Mapping[str, Any]]) -> bool:
    """Returns whether a run was left out before, for a reason that still holds as far as is known.

    Args:
        name: of its weights.
        of_run: see `_of_run`.
        others: entries of the index.
    """
    entry = _left_out().get(name, {})
    if not of_run.items() <= entry.items():
        return False
    if "bytes" not in entry:
        return True
    try:
        _check_room(entry["bytes"], entry["experiment"], others)
    except UserError:
        return True
    return False


def _note_left_out(name: str, entry: Mapping[str, Any] | None) -> None:
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


def _left_out() -> dict[str, Mapping[str, Any]]:
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
                reason = reasons.get((experiment, name), NOT_KEPT)
                rows.setdefault((experiment, reason), []).append(name)
    lines = ["| experiment | rows | why not |", "|---|---|---|"]
    for (experiment, reason), names in rows.items():
        link = f"[{experiment}](../{experiment}/README.md)"
        lines.append(f"| {link} | {'; '.join(names)} | {reason} |")
    return lines
