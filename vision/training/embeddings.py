"""Data as a frozen network sees them: each image once through it, its embedding in its place."""

import numpy as np

from vision import parallel
from vision.data.loading.device_loader import DeviceLoader
from vision.errors import UserError
from vision.training.evaluate import eval_batch_size
from vision.training.smote import extend


def check(config):
    """Raises `UserError` where `transfer.cache_embeddings` is asked for with what changes images
    from step to step."""
    changing = (
        "pad_crop",
        "random_resized_crop",
        "flip_horizontal",
        "flip_alternating",
        "flip_vertical",
        "rot90",
    )
    changing += (
        "affine",
        "brightness",
        "contrast",
        "saturation",
        "hue",
        "randaugment_layers",
        "random_erasing",
    )
    on = [f"augment.{key}" for key in (*changing, "mixup", "cutmix") if config.augment[key]]
    on += ["data.random_crop_area"] if config.data.random_crop_area else []
    on += ["train.test_time_augmentation"] if config.train.test_time_augmentation != "none" else []
    on += ["model.dropout"] if config.model.dropout else []
    if on:
        raise UserError(
            f"transfer.cache_embeddings sees each image once, as it is: turn off {', '.join(on)}"
        )


def embed_split(step, state, loader, batch_size):
    """Returns the embeddings of a split's images in order: float32 (N, D), and whether each is
    readable, bool (N,)."""
    embeddings = []
    readable = []
    for batch in loader.eval_batches(batch_size):
        found, mask = parallel.fetch(step.embed(state, batch, loader.data))
        embeddings.append(found)
        readable.append(mask)
    return np.concatenate(embeddings)[: len(loader)], np.concatenate(readable)[: len(loader)]


def embed_data(config, data, step, state):
    """Returns the `Data` whose loaders hold embeddings, of the model in `state`, in place of
    images."""
    loaders = {}
    for name, loader in data.loaders.items():
        found, readable = embed_split(step, state, loader, eval_batch_size(config.train))
        rows = loader.dataset
        embeddings = [e if ok else None for e, ok in zip(found, readable, strict=True)]
        if name == "train" and config.imbalance.sampling == "smote":
            rows, embeddings = extend(rows, embeddings, config.seed)
        loaders[name] = DeviceLoader(rows, loader.unreadable, loader.mesh, embeddings)
    return type(data)(
        loaders, data.classes, data.image_size, data.channels, data.class_counts, data.findings
    )
