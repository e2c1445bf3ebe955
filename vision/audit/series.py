"""Series of images, such as frames of a video or photos of one patient, on both sides of a split.

A series is what a folder below the class's contains, or what is called alike but for a number at
the end. If the images of val and test are nearest to training images of their own series far more
often than by chance, the model is tested on what it has nearly seen.
"""

import re
from collections.abc import Callable

import numpy as np

from vision.audit.images import Images
from vision.data.findings import Finding
from vision.data.groups import folder_of
from vision.data.identity import base_of, has_names, keys_of, texts

KIND = "image series are in several splits and look alike there: keep each in one split"
NUMBERED = r"^(.*?)[-_ .]*\d+\.\w+$"  # the path without the number at its end
QUERIES = 2000  # images of val and test that are compared, at most
FEWEST = 5  # of them, below which nothing can be said
SHARE = 0.4  # of them that must be nearest to their own series,
TIMES = 2.5  # and how many times more than by chance
ERRORS = 4.0  # and by how many standard errors


def find_series(vectors: np.ndarray, images: Images) -> list[Finding]:
    """Returns a finding that names the `?group=` that would keep series together, if any would.

    Args:
        vectors: float32 (N, D), embeddings; NaN for unreadable images.
        images: the images.
    """
    parts = list(images.splits.items())
    if "train" not in images.names or not all(has_names(base_of(part)[0]) for _, part in parts):
        return []
    paths = np.concatenate([keys_of(part, name) for name, part in parts])
    groupings: dict[str, Callable[[str, str], str]] = {
        "folder:-1": lambda path, class_name: folder_of(path, class_name, -1),
        f"regex:{NUMBERED}": lambda path, _: _stem(path),
    }
    for option, series_of in groupings.items():
        names = [images.classes[label] for label in images.labels]
        series = texts(series_of(path, name) for path, name in zip(paths, names, strict=True))
        detail = _compare(vectors, images, series)
        if detail:
            return [Finding(KIND, f"?group={option}", detail)]
    return []


def _stem(path):
    match = re.match(NUMBERED, path)
    return match.group(1) if match else ""


def _queries(series, train, readable):
    """Returns int64 (Q,), images of val and test whose series has training images too."""
    in_train = set(series[train])
    is_query = readable & ~train & np.array([bool(s) and s in in_train for s in series], bool)
    rows = np.flatnonzero(is_query)
    return np.sort(np.random.RandomState(0).permutation(rows)[:QUERIES])


def _compare(vectors, images, series):
    """Returns how often images are nearest to their own series, as text; "" if hardly more often.

    Args:
        vectors: see `find_series`.
        images: the images.
        series: the series of each image, texts, object (N,); "" for none.
    """
    train = images.split == images.names.index("train")
    readable = np.isfinite(vectors).all(1)
    queries = _queries(series, train, readable)
    hits = []
    chances = []
    for label in np.unique(images.labels[queries]):
        own = queries[images.labels[queries] == label]
        others = np.flatnonzero(train & readable & (images.labels == label))
        if len(others) < 2:
            continue
        squares = (vectors[others] ** 2).sum(1)
        nearest = others[(squares - 2 * vectors[own] @ vectors[others].T).argmin(1)]
        hits += (series[nearest] == series[own]).tolist()
        chances += [float(np.mean(series[others] == name)) for name in series[own]]
    if len(hits) < FEWEST:
        return ""
    share = np.mean(hits)
    chance = np.mean(chances)
    error = np.sqrt(max(chance * (1 - chance), 1 / len(hits)) / len(hits))
    if share < max(SHARE, TIMES * chance) or share - chance < ERRORS * error:
        return ""
    divided = dict.fromkeys(series[queries])
    return (
        f"{len(divided):,} series, such as {next(iter(divided))}: of {len(hits):,} images of val "
        f"and test {share:.0%} are nearest to a training image of their own series, "
        f"against {chance:.0%} by chance"
    )
