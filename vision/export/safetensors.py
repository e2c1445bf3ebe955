"""Weights with timm's names and layouts, as in its hub repositories.

They are stored in model.safetensors and config.json.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.data.pipeline import interpolation_of
from vision.errors import UserError
from vision.inference import Classifier
from vision.models import surgery
from vision.models.surgery.widths import OPTION
from vision.models.weights import pretrained
from vision.models.weights.names import file_name, to_torch_layout
from vision.support import disk
from vision.support.files import filling, write_json
from vision.support.lock import locked

# (mean, std), the same for each channel
NORMALIZE = {"unit": (0.0, 1.0), "symmetric": (0.5, 0.5), "auto": (0.5, 0.5)}


def write(classifier: Classifier, out: pathlib.Path | str) -> str:
    """Writes a classifier's weights into a directory.

    Returns:
        A sentence on the written file.

    Raises:
        UserError: timm has no such architecture, or `out` cannot be written to.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    module = pretrained.architecture(classifier.config.model)
    _check_counterpart(classifier.config.model, module)
    ours = {
        name: np.asarray(v.get_value(), np.float32)
        for name, v in surgery.variables(classifier.model).items()
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in to_timm(module, ours).items()}
    out = pathlib.Path(out)
    with locked(out), filling(out) as folder:
        try:
            save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:
            raise disk.failed(f"--out {out}", error) from error
        write_json(folder / "config.json", _config(classifier, module))
    size = (out / "model.safetensors").stat().st_size / 1e6
    return f"{out / 'model.safetensors'}: {len(arrays)} tensors, {size:.1f} MB, timm's names"


def _check_counterpart(c, module):
    """Raises `UserError` if timm does not have a model like this one."""
    unsupported = ""
    if "timm" not in getattr(module, "NAMES", {}):
        unsupported = f"model '{c.name}'"
    elif c.head == "cosine":
        unsupported = "model.head = 'cosine'"
    elif c.head_groups:
        unsupported = "a model with merged classes (model.head_groups)"
    elif OPTION in c.options:
        unsupported = "a pruned model"
    elif c.positions == "sincos":
        unsupported = "model.positions = 'sincos'"
    if unsupported:
        raise UserError(f"{unsupported} has no counterpart in timm, whose names the file would use")


def to_timm(module: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns {timm's name: array in its layout}.

    Args:
        module: the architecture's Python module.
        arrays: {our name: array}.
    """
    renamed = {
        file_name(name, module.NAMES["timm"]): to_torch_layout(array, name.endswith("kernel"))
        for name, array in arrays.items()
    }
    return getattr(module, "TO_TIMM", dict)(renamed)


def _config(classifier, module):
    """Returns timm's config.json: the architecture, the classes and the images' preprocessing."""
    c = classifier.config.model
    d = classifier.config.data
    mean = d.mean
    std = d.std
    if d.normalize != "mean_std":
        mean, std = ([value] * classifier.channels for value in NORMALIZE[d.normalize])
    pretrained_cfg = {
        "input_size": [classifier.channels, classifier.image_size, classifier.image_size],
        "mean": list(mean),
        "std": list(std),
        "crop_pct": d.crop_fraction or 1.0,
        "interpolation": {"area": "bilinear"}.get(interpolation_of(d), interpolation_of(d)),
        "num_classes": len(classifier.classes),
    }
    config = {
        "num_classes": len(classifier.classes),
        "label_names": list(classifier.classes),
        # the arguments of this project's `build`; timm ignores them
        "vision_options": pretrained.structure(c),
        "pretrained_cfg": pretrained_cfg,
    }
    architectures = [
        spec.removeprefix("hf:timm/").partition(".")[0]
        for spec, weights in getattr(module, "WEIGHTS", {}).items()
        if spec.startswith("hf:timm/")
        and weights.variant == c.variant
        and weights.options == pretrained.structure(c)
    ]
    return ({"architecture": architectures[0]} if architectures else {}) | config
