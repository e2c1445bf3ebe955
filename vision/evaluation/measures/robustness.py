"""A model's accuracy on corrupted images. Hendrycks and Dietterich 2019 (arXiv:1903.12261).

The paper's mean corruption error divides each corruption's errors by AlexNet's, which are known
only for ImageNet. So the mean here is the plain one over the 15 corruptions, as papers report it
for CIFAR-10-C; and the relative error, the increase over the clean error, is a difference instead
of a ratio.
"""

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.data.loading.loader import Loader
from vision.evaluation.corruptions import GROUPS, NAMES, SEVERITIES, corrupt
from vision.evaluation.outputs import Change, Forward, Outputs
from vision.support.progress import Progress

# LLVM's first level of optimization takes half of the CPU's time to compile a corruption, and the
# program is as fast: what is slow to optimize further is the random bits, which are integers.
QUICK = {"xla_backend_optimization_level": 1}
# These round a few values in a million differently than at LLVM's highest level, which they keep.
FULLY_OPTIMIZED = ("motion_blur", "frost", "fog")


def robustness(
    forward: Forward,
    loader: Loader,
    batch_size: int,
    plain: Outputs,
    collect: Callable[..., Outputs],
) -> dict[str, Any]:
    """Returns the accuracy under each corruption at each severity; reads the loader 75 times.

    Every random draw depends only on the corruption, the severity and the image's position in the
    loader.

    Args:
        forward: the model's forward pass.
        loader: a split's loader, from `vision.data.pipeline.Data`.
        batch_size: images at a time, over all devices.
        plain: outputs on the same loader without corruption, with labels among the model's classes.
        collect: `vision.evaluation.outputs.collect`.

    Returns:
        A dict of
            images: number of images.
            clean_accuracy: accuracy without corruption.
            corruptions: {name: [accuracy at severity 1 .. 5]}.
            mean_corruption_accuracy, mean_corruption_error: means over all 75.
            relative: the mean error less the clean one.
            groups: {group: {"names": [...], "mean_accuracy": float}}.
    """
    clean = _accuracy(plain, plain.labels)
    accuracies: dict[str, list[float]] = {name: [] for name in NAMES}
    pairs = [(name, severity) for name in NAMES for severity in SEVERITIES]
    with Progress("corruption", len(pairs)) as work:
        for name, severity in work.over(pairs):
            changed = change(name, severity)
            outputs = collect(
                forward, loader, batch_size, change=changed, embedded=0, label=f"{name} {severity}"
            )
            accuracies[name].append(_accuracy(outputs, plain.labels))
    return {
        "images": len(plain.labels),
        "clean_accuracy": clean,
        "corruptions": accuracies,
    } | summarize(accuracies, clean)


def change(name: str, severity: int) -> Change:
    """Returns `change(images, indices) -> images` for `collect`.

    Images are uint8 (B, S, S, C), indices int (B,), positions in the loader.
    """
    return functools.partial(program(name), severity)


@functools.cache
def program(name: str) -> Callable[..., jax.Array]:
    """Returns the compiled function of a corruption, `run(severity, images, indices) -> images`.

    Severities are 1 .. 5, the others as for `change`.
    """
    is_quick = jax.default_backend() == "cpu" and name not in FULLY_OPTIMIZED
    run = functools.partial(_corrupted, name)
    return jax.jit(run, compiler_options=QUICK if is_quick else None)


def _corrupted(name, severity, images, indices):
    # One program serves all severities. The CRC is the same in every run of Python; the hash of a
    # string is not.
    key = jax.random.fold_in(jax.random.key(zlib.crc32(name.encode())), severity)

    # A key per image makes the draws the same in any batch, on any number of devices.
    def corrupt_image(image, index):
        return corrupt(name, image[None], severity, jax.random.fold_in(key, index))[0]

    return jax.vmap(corrupt_image)(images, indices).astype(jnp.uint8)


def summarize(accuracies: Mapping[str, list[float]], clean: float) -> dict[str, Any]:
    """Returns the means of `robustness`.

    Args:
        accuracies: {corruption: [accuracy at severity 1 .. 5]}.
        clean: accuracy without corruption.
    """
    means = {name: float(np.mean(values)) for name, values in accuracies.items()}
    mean = float(np.mean(list(means.values())))
    groups = {
        group: {
            "names": list(names),
            "mean_accuracy": float(np.mean([means[name] for name in names])),
        }
        for group, names in GROUPS.items()
    }
    return {
        "mean_corruption_accuracy": mean,
        "mean_corruption_error": 1 - mean,
        "relative": clean - mean,
        "groups": groups,
    }


def _accuracy(outputs, labels):
    return float((outputs.logits.argmax(1) == labels).mean())
