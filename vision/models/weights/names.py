"""From other libraries' names and layouts of weights to ours, and back.

An architecture's file may define:

    NAMES = {"timm": RULES, "torchvision": RULES}   rules: (pattern in our name, what stands there
                                                    in theirs), in order
    IGNORED = r"^AuxLogits"                         tensors in their files that have no place here
    REWRITE = {"augreg": function}                  {name: array} -> {name: array}, first of all,
                                                    for other structures
    TO_TIMM = function                              {name: array} -> the same: REWRITE["timm"] back,
                                                    for exports
    HEADS = ("head.", ...)                          how names begin of what starts anew for other
                                                    classes
    ADAPT = {r"positions$": function}               (array, shape) -> array, for a parameter whose
                                                    shape depends on the image's size

Our name of a variable is its path, "blocks.0.conv.kernel". What all have in common needs no rule:
kernel and scale are "weight" there, mean and var "running_mean" and "running_var"; kernels are
(outputs, inputs, height, width) there and (height, width, inputs, outputs) here. A dense layer and
a 1x1 convolution stand for each other.
"""

import difflib
import re

import numpy as np

from vision.errors import UserError

COMMON = (
    (r"(^|\.)(kernel|scale)$", r"\1weight"),
    (r"(^|\.)mean$", r"\1running_mean"),
    (r"(^|\.)var$", r"\1running_var"),
)
USELESS = r"num_batches_tracked$"  # counts of steps


def theirs(name, rules):
    """Returns the name that a variable of ours has by `rules`, an entry of an architecture's
    `NAMES`."""
    for ours, replacement in (*rules, *COMMON):
        name = re.sub(ours, replacement, name)
    return name


def to_ours(array, shape, is_kernel):
    """Returns an array of theirs in our layout, for a variable of this shape."""
    if not is_kernel:
        return array
    if array.ndim == 4 and len(shape) == 2 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    elif array.ndim == 2 and len(shape) == 4 and shape[:2] == (1, 1):
        array = array[:, :, None, None]
    return np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim in (2, 4) else array


def to_theirs(array, is_kernel):
    """Returns an array of ours in their layout."""
    return np.moveaxis(array, (-1, -2), (0, 1)) if is_kernel and array.ndim in (2, 4) else array


def find_scheme(module, names, arrays):
    """Returns (scheme, arrays): the naming that the file follows, and its arrays with that scheme's
    names.

    Args:
        module: an architecture's.
        names: our names of its variables.
        arrays: {name: array} of the file.

    Raises:
        UserError: if no naming of the architecture fits at least half of the names.
    """
    arrays = _without_prefix(arrays)
    best = None
    best_count = 0
    best_arrays = arrays
    for scheme, rules in getattr(module, "NAMES", {}).items():
        rewrite = getattr(module, "REWRITE", {}).get(scheme)
        try:
            rewritten = rewrite(dict(arrays)) if rewrite else arrays
        except (KeyError, ValueError, IndexError):  # of another structure
            continue
        count = sum(theirs(name, rules) in rewritten for name in names)
        if count > best_count:
            best = scheme
            best_count = count
            best_arrays = rewritten
    if 2 * best_count < len(names):
        architecture = module.__name__.rpartition(".")[2]
        some = ", ".join(list(arrays)[:4])
        raise UserError(
            f"these are no weights of a {architecture}: {best_count} of its {len(names)} tensors are there. "
            f"The file has {len(arrays)}: {some}, ...\nSet model.name and model.variant to what the weights are of"
        )
    return best, best_arrays


def translate(module, variables, arrays, optional=()):
    """Returns {our name: array in our layout} of a file's arrays.

    Args:
        module: an architecture's.
        variables: {our name: shape}.
        arrays: {name: array} of the file.
        optional: beginnings of our names that may be missing or of another shape; then they are
            left out.

    Raises:
        UserError: lists every tensor that is missing, has another shape or no place.
    """
    scheme, arrays = find_scheme(module, list(variables), arrays)
    rules = module.NAMES[scheme]
    ignored = re.compile("|".join(filter(None, [USELESS, getattr(module, "IGNORED", "")])))
    left = {name for name in arrays if not ignored.search(name)}
    found = {}
    faults = []
    for name, shape in variables.items():
        other = theirs(name, rules)
        left.discard(other)
        may_miss = name.startswith(tuple(optional)) if optional else False
        if other not in arrays:
            if not may_miss:
                faults.append(f"{other} is missing (here {name}){_nearest(other, left)}")
            continue
        array = to_ours(np.asarray(arrays[other]), shape, name.endswith("kernel"))
        array = adapt(module, name, array, shape)
        if array.shape == tuple(shape):
            found[name] = array
        elif not may_miss:
            faults.append(f"{other} is {array.shape}, here {name} is {tuple(shape)}")
    faults += [f"{name} has no place here" for name in sorted(left)]
    if faults:
        raise UserError("the weights do not fit the model:\n  " + "\n  ".join(faults))
    return found


def adapt(module, name, array, shape):
    """Returns an array that fits `shape`, where it depends on the image's size or channels; else as
    it is."""
    if array.shape == tuple(shape):
        return array
    for pattern, function in getattr(module, "ADAPT", {}).items():
        if re.search(pattern, name):
            return function(array, tuple(shape))
    if name.endswith("kernel") and array.ndim == len(shape) == 4 and array.shape[2] == 3:
        others = array.shape[:2] + array.shape[3:], tuple(shape[:2]) + tuple(shape[3:])
        if others[0] == others[1]:
            return adapt_channels(array, shape[2])
    return array


def adapt_channels(kernel, channels):
    """Makes a first convolution (h, w, 3, O) take another number of channels, as timm does.

    One channel gets the sum over the three, so that a gray image gives what it gave as RGB; more
    get the three in turn, scaled so that the sum over the channels stays.
    """
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    repeated = np.tile(kernel, (1, 1, -(-channels // 3), 1))[:, :, :channels]
    return repeated * np.asarray(3 / channels, kernel.dtype)


def _without_prefix(arrays):
    """Drops what wrappers put before every name: DataParallel's "module.", torch.compile's
    "_orig_mod."."""
    for prefix in ("_orig_mod.", "module.", "model."):
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays


def _nearest(name, names):
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
    return f"; the file has {near[0]}" if near else ""
