"""Maps other libraries' names and layouts of weights to ours, and back.

An architecture's file may define:

    NAMES = {"timm": RULES, "torchvision": RULES}   rules: (pattern in our name, replacement in the
                                                    file's name), in order
    IGNORED = r"^AuxLogits"                         tensors of the file that have no place here
    REWRITE = {"augreg": function}                  {name: array} -> {name: array}, applied first,
                                                    for files of another structure
    TO_TIMM = function                              {name: array} -> {name: array}: the inverse of
                                                    REWRITE["timm"], for exports
    HEADS = ("head.", ...)                          prefixes of the variables that start anew for
                                                    other classes
    ADAPT = {r"positions$": function}               (array, shape) -> array, for a parameter whose
                                                    shape depends on the image size

Our name of a variable is its path, "blocks.0.conv.kernel". Names that all architectures share need
no rule: kernel and scale are "weight" in the file, mean and var "running_mean" and "running_var";
kernels are (outputs, inputs, height, width) there and (height, width, inputs, outputs) here. A
dense layer and a 1x1 convolution can take each other's weights.
"""

import difflib
import functools
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

import numpy as np

from vision.errors import UserError, shown
from vision.models.weights.prefixes import Match, choose, describe_choice, is_beside, split

COMMON = (
    (r"(^|\.)(kernel|scale)$", r"\1weight"),
    (r"(^|\.)mean$", r"\1running_mean"),
    (r"(^|\.)var$", r"\1running_var"),
)
USELESS = r"num_batches_tracked$"  # counts of steps


def file_name(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """Returns the name in a file of our variable `name`, by rules in an architecture's `NAMES`."""
    for pattern, replacement in (*rules, *COMMON):
        name = re.sub(pattern, replacement, name)
    return name


def from_torch_layout(array: np.ndarray, shape: Sequence[int], is_kernel: bool) -> np.ndarray:
    """Returns a file's array in our layout, for a variable of this shape."""
    if not is_kernel:
        return array
    if array.ndim == 4 and len(shape) == 2 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    elif array.ndim == 2 and len(shape) == 4 and shape[:2] == (1, 1):
        array = array[:, :, None, None]
    return np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim in (2, 4) else array


def to_torch_layout(array: np.ndarray, is_kernel: bool) -> np.ndarray:
    """Returns one of our arrays in PyTorch's layout."""
    return np.moveaxis(array, (-1, -2), (0, 1)) if is_kernel and array.ndim in (2, 4) else array


def find_scheme(
    module: ModuleType,
    variables: Mapping[str, Sequence[int]],
    arrays: Mapping[str, np.ndarray],
) -> tuple[str, Mapping[str, np.ndarray]]:
    """Returns (scheme, arrays): the naming that a file follows, and its arrays by that naming.

    What wrappers, trainers and checkpoints put before the names is found by what the names then
    match, and what lies beside the network is left out: see `vision.models.weights.prefixes`.

    Args:
        module: the architecture's module.
        variables: {our name: shape} of its variables.
        arrays: {name: array} of the file.

    Raises:
        UserError: no naming of the architecture fits at least half of the names.
    """
    matches = []
    for prefix, part in split(arrays, len(variables) // 2):
        for scheme, rules in getattr(module, "NAMES", {}).items():
            rewrite = getattr(module, "REWRITE", {}).get(scheme)
            try:
                rewritten = rewrite(dict(part)) if rewrite else part
            except (KeyError, ValueError, IndexError, AttributeError):  # of another structure
                continue
            sources = {name: file_name(name, rules) for name in variables}
            present = [name for name, source in sources.items() if source in rewritten]
            fits = sum(rewritten[sources[n]].size == math.prod(variables[n]) for n in present)
            matches.append(Match(prefix, len(present), fits, scheme, rewritten))
    best, others = choose(matches)
    if best is None or 2 * best.count < len(variables):
        architecture = module.__name__.rpartition(".")[2]
        examples = ", ".join(shown(name) for name in list(arrays)[:4])
        raise UserError(
            f"these are not the weights of a {architecture}: they have {best.count if best else 0} "
            f"of its {len(variables)} tensors. The file has {len(arrays)}: {examples}, ...\n"
            "Set model.name and model.variant to the architecture of the weights"
        )
    if others:
        _note(describe_choice(best, others))
    return best.scheme, best.arrays


@functools.cache  # a file is read more than once
def _note(text):
    print(f"note: {text}", file=sys.stderr)


def translate(
    module: ModuleType,
    variables: Mapping[str, Sequence[int]],
    arrays: Mapping[str, np.ndarray],
    optional: Iterable[str] = (),
) -> dict[str, np.ndarray]:
    """Returns {our name: array in our layout} of a file's arrays.

    Args:
        module: the architecture's module.
        variables: {our name: shape}.
        arrays: {name: array} of the file.
        optional: prefixes of our names that may be missing or of another shape; those are left out.

    Raises:
        UserError: lists every tensor that is missing, has another shape or has no place here.
    """
    scheme, arrays = find_scheme(module, variables, arrays)
    rules = module.NAMES[scheme]
    ignored = re.compile("|".join(filter(None, [USELESS, getattr(module, "IGNORED", "")])))
    unused = {name for name in arrays if not ignored.search(name)}
    translated = {}
    faults = []
    for name, shape in variables.items():
        source = file_name(name, rules)
        unused.discard(source)
        is_optional = name.startswith(tuple(optional))
        if source not in arrays:
            if not is_optional:
                faults.append(f"{source} is missing (for {name}){_nearest(source, unused)}")
            continue
        array = from_torch_layout(np.asarray(arrays[source]), shape, name.endswith("kernel"))
        array = adapt(module, name, array, shape)
        if array.shape == tuple(shape):
            translated[name] = array
        elif not is_optional:
            faults.append(f"{source} is {array.shape}, but the model's {name} is {tuple(shape)}")
    faults += [
        f"{name} has no counterpart in the model"
        for name in sorted(unused)
        if not is_beside(name, np.asarray(arrays[name]))
    ]
    if faults:
        raise UserError("the weights do not fit the model:\n  " + "\n  ".join(faults))
    return translated


def adapt(module: ModuleType, name: str, array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Returns an array, adapted to `shape` if it depends on the image's size or channels."""
    if array.shape == tuple(shape):
        return array
    for pattern, function in getattr(module, "ADAPT", {}).items():
        if re.search(pattern, name):
            return function(array, tuple(shape))
    if name.endswith("kernel") and array.ndim == len(shape) == 4 and array.shape[2] == 3:
        height, width, _, outputs = shape
        if array.shape == (height, width, 3, outputs):
            return adapt_channels(array, shape[2])
    return array


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapts a first convolution (h, w, 3, O) to another number of channels, as timm does.

    For one channel it is summed over the three, so that a gray image gives the same result as in
    RGB; for more, the three are repeated in turn, scaled so that the sum over the channels stays.
    """
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    repeated = np.tile(kernel, (1, 1, -(-channels // 3), 1))[:, :, :channels]
    return repeated * np.asarray(3 / channels, kernel.dtype)


def _nearest(name, names):
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
    return f"; the file has {near[0]}" if near else ""
