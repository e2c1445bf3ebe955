"""Reads the arrays that `config.model.pretrained` names: local files, packages, Hugging Face's hub.

PATH.safetensors, PATH.pth, PATH.npz, ...                  a file; its contents tell its kind
PATH.safetensors.index.json                                several files, the shards of one
FOLDER                                                     model.safetensors or such in it, as
                                                           in a copy of a hub's repository
package:MODULE/PATH                                        a file in an installed Python package
hf:OWNER/NAME[@REVISION]                                   model.safetensors of a repository, kept
                                                           in the hub's cache
kept:NAME                                                  a finished row of experiments/
"""

import pathlib

import ml_dtypes
import numpy as np

from vision.errors import UserError
from vision.models.weights.hub_config import COLORS
from vision.models.weights.kept import PREFIX, find_kept
from vision.models.weights.kinds import recognize
from vision.models.weights.torch_file import read_torch
from vision.support import hub
from vision.support.arrays import read_npz
from vision.support.packaged import in_package
from vision.support.reading import parsing, read_json
from vision.support.schema import Rule, check, filled, integers_within, numbers_within

HUB_FILE = "model.safetensors"
REPOSITORY_FILES = (
    HUB_FILE,
    f"{HUB_FILE}.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TIMM = {
    "architecture?": str,
    "pretrained_cfg": (
        {
            "mean?": COLORS,
            "std?": COLORS,
            "input_size?": filled(integers_within(1, 65_536)),
            "crop_pct?": (numbers_within(0.01, 2), None),
            "interpolation?": (str, None),
            "num_classes?": integers_within(0, 10_000_000),
        },
        None,
    ),
    "vision_options?": dict,
    "label_names?": ([str], None),
}
SHARD = Rule(
    "the name of a file in the same folder",
    lambda name: name == pathlib.PurePath(name).name and not name.endswith(".json"),
)
FORMS = (
    "a .safetensors, .pth, .pt, .ckpt, .bin or .npz file, package:MODULE/PATH, hf:OWNER/NAME, "
    "kept:NAME or a run directory"
)


def locate(spec: str, name: str = HUB_FILE) -> pathlib.Path:
    """Returns the path of the file that `spec` names; in a hub repository, of the file `name`.

    Raises:
        UserError: there is no such file.
    """
    if spec.startswith("hf:"):
        return hub.download(f"model.pretrained = '{spec}'", spec, name)
    if spec.startswith(PREFIX):
        return find_kept(spec).path
    path = in_package("model.pretrained", spec)
    if path is None:
        path = pathlib.Path(spec).expanduser()
        path = weights_in(path) or path
    if not path.is_file():
        raise UserError(f"model.pretrained = '{spec}': there is no file {path}; it must be {FORMS}")
    return path


def weights_in(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the file of weights in a folder that is a copy of a hub's repository, or None."""
    paths = (folder / name for name in REPOSITORY_FILES)
    return next((path for path in paths if path.is_file()), None)


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns {name: array} of a file of weights; float16 and bfloat16 become float32.

    Raises:
        UserError: the file is damaged, of an unknown kind, or holds more than arrays.
    """
    readers = {
        "torch": read_torch,
        "npz": _read_npz,
        "safetensors": _read_safetensors,
        "index": _read_shards,
    }
    arrays = readers[recognize(path)](path)
    narrow = (np.float16, ml_dtypes.bfloat16)
    return {k: v.astype(np.float32) if v.dtype in narrow else v for k, v in arrays.items()}


def beside(spec: str, name: str) -> pathlib.Path:
    """Returns the path of the file `name` beside the weights that `spec` names.

    Raises:
        UserError: a repository of the hub has no such file, or there are no such weights.
    """
    path = locate(spec, name)
    return path if spec.startswith("hf:") else path.parent / name


def published_config(spec: str) -> dict:
    """Returns timm's config.json beside the weights ("architecture", ...), or {}."""
    try:
        path = beside(spec, "config.json")
        config = read_json(path, dict)
    except UserError:
        return {}
    if "pretrained_cfg" not in config:  # of another library
        return config
    return check(config, TIMM, path, "fetch it again, or remove it and set data.mean and so on")


def _read_npz(path):
    return read_npz(path, "fetch it again")


def _read_shards(path):
    """Reads the files that an index names, which lie beside it: "model-00001-of-00002.*"."""
    places = read_json(path, {"weight_map": {str: SHARD}}, "fetch it again")["weight_map"]
    shards = sorted(set(places.values()))
    arrays = {}
    for shard in shards:
        shard_path = path.parent / shard
        if not shard_path.is_file():
            raise UserError(f"{path} names {shard!r:.80}, which is missing: fetch it too")
        arrays |= read(shard_path)
    missing = [name for name in places if name not in arrays]
    if missing:
        raise UserError(f"the files that {path} names have no {missing[0]!r:.80}: fetch them again")
    return arrays


def _read_safetensors(path):
    import safetensors

    dtypes = {"BF16": ml_dtypes.bfloat16, "BOOL": np.bool_}
    dtypes |= {f"F{8 * n}": np.dtype(f"f{n}") for n in (2, 4, 8)}
    dtypes |= {f"{c.upper()}{8 * n}": np.dtype(f"{c}{n}") for c in "iu" for n in (1, 2, 4, 8)}
    with parsing(path, "a complete .safetensors file", "fetch it again"):
        tensors = safetensors.deserialize(path.read_bytes())
        others = sorted({tensor["dtype"] for _, tensor in tensors} - dtypes.keys())
        if others:
            raise UserError(
                f"{path} has tensors of dtype {', '.join(others)}"
                f"{' (8-bit floats)' if any('F8' in o for o in others) else ''}, which are not "
                "supported: save them as float32, float16 or bfloat16"
            )
        return {
            name: np.frombuffer(tensor["data"], dtypes[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in tensors
        }
