"""Weights with timm's names and layouts, as its hub repositories have them: model.safetensors and
config.json."""

import json
import pathlib

import numpy as np

from vision.data.pipeline import interpolation_of
from vision.errors import UserError
from vision.models import surgery
from vision.models.surgery.widths import OPTION
from vision.models.weights import pretrained
from vision.models.weights.names import theirs, to_theirs

# mean and std, of every channel
NORMALIZE = {"unit": (0.0, 1.0), "symmetric": (0.5, 0.5), "auto": (0.5, 0.5)}


def write(classifier, out):
    """Writes a `vision.inference.Classifier` into the directory `out`; returns a sentence that says
    what was written.

    Raises:
        UserError: timm has no such architecture, or `out` cannot be written to.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    c = classifier.config.model
    module = pretrained.architecture(c)
    if "timm" not in getattr(module, "NAMES", {}):
        raise UserError(
            f"model '{c.name}' has no counterpart in timm, whose names the file would have"
        )
    if c.head == "cosine":
        raise UserError(
            "model.head = 'cosine' has no counterpart in timm, whose names the file would have"
        )
    if OPTION in c.options:
        raise UserError(
            "a pruned model has no counterpart in timm, whose names the file would have"
        )
    if c.positions == "sincos":
        raise UserError(
            "model.positions = 'sincos' has no counterpart in timm, whose names the file would have"
        )
    ours = {
        name: np.asarray(v.get_value(), np.float32)
        for name, v in surgery.variables(classifier.model).items()
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in to_timm(module, ours).items()}
    out = pathlib.Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_file(arrays, out / "model.safetensors.tmp", metadata={"format": "pt"})
        (out / "config.json").write_text(json.dumps(_config(classifier, module), indent=1))
        (out / "model.safetensors.tmp").replace(out / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write to --out {out}: {getattr(error, 'strerror', None) or error}"
        ) from error
    size = (out / "model.safetensors").stat().st_size / 1e6
    return f"{out / 'model.safetensors'}: {len(arrays)} tensors, {size:.1f} MB, timm's names"


def to_timm(module, arrays):
    """Returns {timm's name: array in its layout} of {our name: array}, for an architecture's
    module."""
    found = {
        theirs(k, module.NAMES["timm"]): to_theirs(v, k.endswith("kernel"))
        for k, v in arrays.items()
    }
    return getattr(module, "TO_TIMM", dict)(found)


def _config(classifier, module):
    """Returns what timm's config.json says: the architecture, the classes and how images are
    prepared."""
    c = classifier.config.model
    d = classifier.config.data
    mean = d.mean
    std = d.std
    if d.normalize != "mean_std":
        mean, std = ([value] * classifier.channels for value in NORMALIZE[d.normalize])
    prepared = {
        "input_size": [classifier.channels, classifier.image_size, classifier.image_size],
        "mean": list(mean),
        "std": list(std),
        "crop_pct": d.crop_fraction or 1.0,
        "interpolation": {"area": "bilinear"}.get(interpolation_of(d), interpolation_of(d)),
        "num_classes": len(classifier.classes),
    }
    found = {
        "num_classes": len(classifier.classes),
        "label_names": list(classifier.classes),
        # what this project's `build` needs; timm does not read it
        "vision_options": pretrained.structure(c),
        "pretrained_cfg": prepared,
    }
    weights = getattr(module, "WEIGHTS", {}).items()
    known = [
        spec.removeprefix("hf:timm/").partition(".")[0]
        for spec, w in weights
        if spec.startswith("hf:timm/")
        and w.variant == c.variant
        and w.options == pretrained.structure(c)
    ]
    return ({"architecture": known[0]} if known else {}) | found
