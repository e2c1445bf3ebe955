"""Keeps the weights of finished rows in experiments/weights, where kept:NAME finds them."""

import json
import pathlib
from typing import Any

import numpy as np

from experiments.measured import RESULTS
from experiments.readme import fill
from experiments.row import HERE, Place, Row
from vision.errors import UserError
from vision.models.weights import kept
from vision.support.digest import sha256
from vision.support.files import replacing_path, write_json

FOLDER = HERE / "weights"
LARGEST = 10e6  # bytes, all files together


def keep(row: Row, seed: int, place: Place) -> None:
    """Writes the weights of a finished row, and what they are, if it is finished.

    Kernels are float16; vectors, whose statistics may be out of its range, float32.

    Raises:
        UserError: the architecture's weights cannot be read from a file, or all files together
            would be larger than `LARGEST`.
    """
    workdir = place.directory(row.name, seed)
    name = f"{place.name}-{workdir.name}"
    if not (workdir / RESULTS[row.command]).is_file():
        print(f"{name}: {workdir} is not finished")
        return
    from safetensors.numpy import save_file

    from vision.run.weights import run_weights

    config, data, arrays = run_weights(workdir)
    path = FOLDER / f"{name}.safetensors"
    with replacing_path(path) as temporary:
        save_file(_in_file(config.model.name, arrays), temporary, metadata={"format": "pt"})
        others = sum(p.stat().st_size for p in FOLDER.glob("*.safetensors") if p != path)
        size = temporary.stat().st_size
        if others + size > LARGEST:
            raise UserError(
                f"{name} has {size / 1e6:.1f} MB, and {FOLDER} has {others / 1e6:.1f} MB: the "
                f"limit is {LARGEST / 1e6:.0f} MB; remove some, and their entries in {kept.INDEX}"
            )
    result = json.loads((workdir / RESULTS[row.command]).read_text())
    index = kept.read_index(FOLDER)
    index[name] = {
        "file": path.name,
        "sha256": sha256(path),
        "accuracy": result["accuracy"],
        "experiment": place.name,
        "row": row.name,
        "seed": seed,
        "config": row.config,
        "flags": {key: str(value) for key, value in row.flags.items()},
        "date": result["date"][:10],
        "commit": (result["git_commit"] or "")[:8],
        **_of_model(config, data),
    }
    write_json(FOLDER / kept.INDEX, index)
    fill(FOLDER / "README.md", _table(index))
    print(f"{name}: {size / 1e6:.1f} MB; model.pretrained={kept.PREFIX}{name} starts from it")


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
            f"{100 * entry['accuracy']:.2f} %",
            f"{size:.1f}",
            f"`{entry['sha256']}`",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines
