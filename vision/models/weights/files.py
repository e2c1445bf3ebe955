"""Reads the arrays that `config.model.pretrained` names: local files, packages, Hugging Face's hub.

PATH.safetensors, PATH.pth, PATH.pt, PATH.bin, PATH.npz    a file
package:MODULE/PATH                                        a file in an installed Python package
hf:OWNER/NAME[@REVISION]                                   model.safetensors of a repository, kept
                                                           in the hub's cache
"""

import importlib.util
import json
import pathlib
import zipfile

import ml_dtypes
import numpy as np

from vision.errors import UserError
from vision.models.weights.torch_file import read_torch

HUB_FILE = "model.safetensors"
FORMS = (
    "a .safetensors, .pth, .pt, .bin or .npz file, package:MODULE/PATH, hf:OWNER/NAME, "
    "or a run directory"
)


def locate(spec: str, name: str = HUB_FILE) -> pathlib.Path:
    """Returns the path of the file that `spec` names; in a hub repository, of the file `name`.

    Raises:
        UserError: there is no such file.
    """
    if spec.startswith("hf:"):
        return _from_hub(spec, name)
    if spec.startswith("package:"):
        module, _, inner_path = spec.removeprefix("package:").partition("/")
        package = importlib.util.find_spec(module) if module.isidentifier() else None
        if package is None or not package.submodule_search_locations:
            raise UserError(
                f"model.pretrained = '{spec}': package '{module}' is not installed: pip install it"
            )
        path = pathlib.Path(next(iter(package.submodule_search_locations))) / inner_path
    else:
        path = pathlib.Path(spec).expanduser()
    if not path.is_file():
        raise UserError(f"model.pretrained = '{spec}': there is no file {path}; it must be {FORMS}")
    return path


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns {name: array} of a file of weights; float16 and bfloat16 become float32.

    Raises:
        UserError: the file is damaged, of an unknown kind, or holds more than arrays.
    """
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    readers |= dict.fromkeys((".pth", ".pt", ".bin", ".tar"), read_torch)
    if path.suffix not in readers:
        raise UserError(
            f"model.pretrained = '{path}': '{path.suffix}' must be one of {', '.join(readers)}"
        )
    arrays = readers[path.suffix](path)
    narrow = (np.float16, ml_dtypes.bfloat16)
    return {k: v.astype(np.float32) if v.dtype in narrow else v for k, v in arrays.items()}


def published_config(spec: str) -> dict:
    """Returns timm's config.json beside the weights ("architecture", ...), or {}."""
    try:
        path = locate(spec, "config.json")
        path = path if spec.startswith("hf:") else path.parent / "config.json"
        config = json.loads(path.read_text())
    except (OSError, ValueError, UserError):
        return {}
    return config if isinstance(config, dict) else {}


def _from_hub(spec, name):
    repository, _, revision = spec.removeprefix("hf:").partition("@")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise UserError(
            f"model.pretrained = '{spec}' needs: pip install 'vision[pretrained]'"
        ) from error
    try:
        path = huggingface_hub.hf_hub_download(repository, name, revision=revision or None)
    except errors.HFValidationError as error:
        raise UserError(f"model.pretrained = '{spec}' must be hf:OWNER/NAME") from error
    except (
        errors.RepositoryNotFoundError,
        errors.EntryNotFoundError,
        errors.RevisionNotFoundError,
    ) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise _unreachable(spec, name) from error
        raise UserError(
            f"model.pretrained = '{spec}': the hub has no {name} there; check the name"
        ) from error
    except Exception as error:  # exceptions of httpx, the proxy and the cache
        raise _unreachable(spec, name) from error
    return pathlib.Path(path)


def _unreachable(spec, name):
    return UserError(
        f"model.pretrained = '{spec}': {name} is not in the cache, and the hub cannot be reached.\n"
        "Fetch it once on a machine with a network, or download it and give the file's path"
    )


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not a complete .npz file of arrays ({error}): fetch it again"
        ) from error


def _read_safetensors(path):
    import safetensors

    dtypes = {"BF16": ml_dtypes.bfloat16, "BOOL": np.bool_}
    dtypes |= {f"F{8 * n}": np.dtype(f"f{n}") for n in (2, 4, 8)}
    dtypes |= {f"{c.upper()}{8 * n}": np.dtype(f"{c}{n}") for c in "iu" for n in (1, 2, 4, 8)}
    try:
        tensors = safetensors.deserialize(path.read_bytes())
        return {
            name: np.frombuffer(tensor["data"], dtypes[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in tensors
        }
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is not a complete .safetensors file ({error}): fetch it again"
        ) from error
