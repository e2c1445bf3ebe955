"""From what `config.model.pretrained` names to arrays by name: local files, installed packages,
Hugging Face's hub.

PATH.safetensors, PATH.pth, PATH.pt, PATH.bin, PATH.npz    a file
package:MODULE/PATH                                        a file inside an installed Python package
hf:OWNER/NAME[@REVISION]                                   model.safetensors of a repository, kept
                                                           in its cache
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
FORMS = "a .safetensors, .pth, .pt, .bin or .npz file, package:MODULE/PATH, hf:OWNER/NAME, or a run's directory"


def locate(spec, name=HUB_FILE):
    """Returns the `pathlib.Path` of the file that `spec` names; of a hub's repository the file
    called `name`.

    Raises:
        UserError: there is none, with what can be given.
    """
    if spec.startswith("hf:"):
        return _from_hub(spec, name)
    if spec.startswith("package:"):
        module, _, inside = spec.removeprefix("package:").partition("/")
        found = importlib.util.find_spec(module) if module.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise UserError(
                f"model.pretrained = '{spec}': no package {module} is installed: pip install it"
            )
        path = pathlib.Path(next(iter(found.submodule_search_locations))) / inside
    else:
        path = pathlib.Path(spec).expanduser()
    if not path.is_file():
        raise UserError(f"model.pretrained = '{spec}': there is no file {path}; it is {FORMS}")
    return path


def read(path):
    """Returns {name: array} of a file of weights; what is float16 or bfloat16 there is float32.

    Raises:
        UserError: it is damaged, of an unknown kind, or holds more than arrays.
    """
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    readers |= dict.fromkeys((".pth", ".pt", ".bin", ".tar"), read_torch)
    if path.suffix not in readers:
        raise UserError(
            f"model.pretrained = '{path}': '{path.suffix}' is none of {', '.join(readers)}"
        )
    arrays = readers[path.suffix](path)
    narrow = (np.float16, ml_dtypes.bfloat16)
    return {k: v.astype(np.float32) if v.dtype in narrow else v for k, v in arrays.items()}


def published_config(spec):
    """Returns the dict of timm's config.json beside the weights ("architecture", "pretrained_cfg",
    ...), or {}."""
    try:
        path = locate(spec, "config.json")
        path = path if spec.startswith("hf:") else path.parent / "config.json"
        found = json.loads(path.read_text())
    except (OSError, ValueError, UserError):
        return {}
    return found if isinstance(found, dict) else {}


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
        return pathlib.Path(
            huggingface_hub.hf_hub_download(repository, name, revision=revision or None)
        )
    except errors.HFValidationError as error:
        raise UserError(f"model.pretrained = '{spec}': it is hf:OWNER/NAME") from error
    except (
        errors.RepositoryNotFoundError,
        errors.EntryNotFoundError,
        errors.RevisionNotFoundError,
    ) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise _offline(spec, name) from error
        raise UserError(
            f"model.pretrained = '{spec}': the hub has no {name} there; check the name"
        ) from error
    except Exception as error:  # httpx's, the proxy's and the cache's kinds
        raise _offline(spec, name) from error


def _offline(spec, name):
    return UserError(
        f"model.pretrained = '{spec}': {name} is not in the cache, and the hub cannot be reached from here.\n"
        "Fetch it once where there is a network, or download it and give the file's path"
    )


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is no whole .npz file of arrays ({error}): fetch it again"
        ) from error


def _read_safetensors(path):
    import safetensors

    dtypes = {"BF16": ml_dtypes.bfloat16, "BOOL": np.bool_}
    dtypes |= {f"F{8 * n}": np.dtype(f"f{n}") for n in (2, 4, 8)}
    dtypes |= {f"{c.upper()}{8 * n}": np.dtype(f"{c}{n}") for c in "iu" for n in (1, 2, 4, 8)}
    try:
        found = safetensors.deserialize(path.read_bytes())
        return {
            k: np.frombuffer(v["data"], dtypes[v["dtype"]]).reshape(v["shape"]) for k, v in found
        }
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is no whole .safetensors file ({error}): fetch it again"
        ) from error
