"""How much of a model's accuracy is left on corrupted images. Hendrycks and Dietterich 2019
(arXiv:1903.12261).

The paper's mean corruption error divides each corruption's errors by AlexNet's, which are known for
ImageNet alone. So the mean here is the plain one over the 15 corruptions, as papers give it for
CIFAR-10-C; and the relative error, over what the clean images cost, is a difference and no ratio.
"""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from vision.evaluation.corruptions import GROUPS, NAMES, SEVERITIES, corrupt


def robustness(forward, loader, batch_size, plain, collect):
    """Returns the accuracy under each corruption at each severity; reads the loader 75 times.

    Args:
        forward: a `vision.evaluation.outputs.Forward`.
        loader: a split of `vision.data.pipeline.Data`.
        batch_size: images at a time, over all devices.
        plain: `Outputs` of the same loader as it is, whose labels are those of the logits.
        collect: `vision.evaluation.outputs.collect`.

    Returns:
        {"images": int, "clean_accuracy", "corruptions": {name: [accuracy at severity 1 .. 5]},
        "mean_corruption_accuracy", "mean_corruption_error": over all 75, "relative": mean error
        less the clean one, "groups": {group: {"names": [...], "mean_accuracy": float}}}. Every draw
        follows from the corruption, the severity and the image's place in the loader.
    """
    clean = _accuracy(plain, plain.labels)
    found = {}
    for name in NAMES:
        accuracies = []
        for severity in SEVERITIES:
            outputs = collect(
                forward, loader, batch_size, change=change(name, severity), embedded=0
            )
            accuracies.append(_accuracy(outputs, plain.labels))
        found[name] = accuracies
    return {"images": len(plain.labels), "clean_accuracy": clean, "corruptions": found} | summarize(
        found, clean
    )


def change(name, severity):
    """Returns `change(images, indices) -> images` for `collect`: uint8 (B, S, S, C), and int (B,)
    places."""
    return functools.partial(_corrupted, name, severity)


@functools.partial(jax.jit, static_argnums=0)
def _corrupted(name, severity, images, indices):
    # One program serves all severities, and another run of Python draws the same: its own hash of a
    # word would not.
    key = jax.random.fold_in(jax.random.key(zlib.crc32(name.encode())), severity)

    # its own key, so that the draws are the same in any batch, on any number of devices
    def one(image, index):
        return corrupt(name, image[None], severity, jax.random.fold_in(key, index))[0]

    return jax.vmap(one)(images, indices).astype(jnp.uint8)


def summarize(found, clean):
    """Returns the means of `robustness`, of {name: [accuracy at severity 1 .. 5]} and the accuracy
    on clean images."""
    means = {name: float(np.mean(accuracies)) for name, accuracies in found.items()}
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
