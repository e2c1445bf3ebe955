"""Which model `vision.load` means: a run, a bundle, a repository of the hub, or a config."""

import os
import pathlib

from vision.api.model import LoadedModel
from vision.bundle.checks import MANIFEST
from vision.bundle.directory import open_bundle
from vision.config.load import is_config
from vision.config.load import load as load_config
from vision.config.packages import check_packages
from vision.errors import UserError
from vision.support import hub


def load(model: "str | os.PathLike[str]") -> LoadedModel:
    """Returns the model that `vision.load` describes."""
    spec = os.fspath(model)
    if is_config(spec):
        from vision import inference  # imports JAX

        config = load_config(spec)
        check_packages(config)
        return LoadedModel(inference.from_flags(config, ""), spec)
    is_remote = spec.startswith(hub.PREFIX)
    path = hub.download(spec, spec) if is_remote else pathlib.Path(spec).expanduser()
    if (path / MANIFEST).is_file():
        return LoadedModel(open_bundle(path), spec)
    if not (path / "config.json").is_file() or not (path / "data.json").is_file():
        raise UserError(_explain(spec, path, is_remote))
    from vision import inference

    # What is evaluated of a run is written into it, but the hub's cache is not ours to change.
    return LoadedModel(inference.from_run(path), spec, None if is_remote else path)


def _explain(spec: str, path: pathlib.Path, is_remote: bool) -> str:
    """Returns why there is no model in a directory."""
    if not path.exists():
        return f"there is no run or bundle {spec}: give the directory of one, or hf:OWNER/NAME"
    missing = f"{spec} is neither a run nor a bundle: it has no data.json and no {MANIFEST}"
    if not is_remote:
        return f"{missing}. Give a directory that vision.train or an export has written"
    return (
        f"{missing}.\nIf it has weights, train from them with "
        f"overrides={{'model.pretrained': '{spec}'}}"
    )
