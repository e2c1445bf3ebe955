"""Agreement of several annotators: Cohen's and Fleiss' kappa, and a sample to label again.

A table of their labels has a header row, in one of two forms; images are named as in
`vision.data.sources.csv`:

    path,label,annotator          path,annotator_anna,annotator_bert
    a/1.jpg,cat,anna              a/1.jpg,cat,dog
    a/1.jpg,dog,bert              a/2.jpg,cat,

An empty label means that this person has not seen the image.
"""

import collections
import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np

from vision.audit.images import Images
from vision.data.tables import read_rows
from vision.errors import UserError
from vision.support.cells import Writer
from vision.support.files import replacing

WIDE = "annotator_"  # prefix of the columns of the second form
IMAGE = ("path", "source", "part", "index")


@dataclasses.dataclass(frozen=True)
class Ratings:
    """The labels that each annotator gave.

    Attributes:
        annotators: their names, in the order of appearance.
        votes: {image: {annotator: label}}.
    """

    annotators: tuple[str, ...]
    votes: dict[str, dict[str, str]]


def read(path: pathlib.Path | str) -> Ratings:
    """Reads a table of several annotators' labels.

    Raises:
        UserError: the file is missing or not such a table, has fewer than two annotators, or one of
            them gives an image two labels.
    """
    header, rows, lines = read_rows(path)
    wide = [column for column in header if column.startswith(WIDE) and column != WIDE]
    image_columns = [column for column in IMAGE if column in header]
    if not image_columns or not (wide or {"label", "annotator"} <= set(header)):
        raise UserError(
            f"{path} has columns {', '.join(header)}: --annotations takes path, label and "
            f"annotator, or path and a column {WIDE}NAME for each person"
        )
    ratings = Ratings((), {})
    annotators: dict[str, None] = {}  # in order
    for row, line in zip(rows, lines, strict=True):
        cells = dict(zip(header, map(str.strip, row), strict=True))
        image = " ".join(filter(None, (cells[column] for column in image_columns)))
        labels = {column.removeprefix(WIDE): cells[column] for column in wide}
        if not wide:
            labels = {cells["annotator"]: cells["label"]}
        if not (image and all(labels)):
            missing = "annotator" if image else "image"
            raise UserError(f"{path}, line {line} names no {missing}")
        for annotator, label in labels.items():
            if label:
                annotators.setdefault(annotator)
                _add_vote(ratings.votes, image, annotator, label, f"{path}, line {line}")
    if len(annotators) < 2:
        raise UserError(
            f"{path} has labels of {len(annotators)} annotator(s): agreement needs two or more"
        )
    return dataclasses.replace(ratings, annotators=tuple(annotators))


def _add_vote(votes, image, annotator, label, place):
    if votes.setdefault(image, {}).setdefault(annotator, label) != label:
        raise UserError(f"{place}: {annotator} gives {image} a second label, {label!r}")


def measure(ratings: Ratings) -> dict[str, Any]:
    """Measures how far annotators agree beyond chance.

    Cohen's kappa (1960, doi:10.1177/001316446002000104) of each pair, over the images that both
    have seen; Fleiss' (1971, doi:10.1037/h0031619) over the images that have the most common number
    of labels of at least two, as it needs the same number for all. A kappa is None if it is
    undefined: no image in common, or one label throughout.

    Returns:
        A dict for JSON: annotators, images; cohen, [{"a", "b", "kappa", "images"}]; fleiss,
            fleiss_images, fleiss_raters; disagreements, [{"image", "labels": {annotator: label}}].
    """
    fleiss, images, raters = _fleiss(ratings)
    return {
        "annotators": list(ratings.annotators),
        "images": len(ratings.votes),
        "cohen": [_cohen(ratings, a, b) for a, b in itertools.combinations(ratings.annotators, 2)],
        "fleiss": fleiss,
        "fleiss_images": images,
        "fleiss_raters": raters,
        "disagreements": [
            {"image": image, "labels": votes}
            for image, votes in ratings.votes.items()
            if len(set(votes.values())) > 1
        ],
    }


def _cohen(ratings, a, b):
    from sklearn.metrics import cohen_kappa_score

    both = [(votes[a], votes[b]) for votes in ratings.votes.values() if a in votes and b in votes]
    is_defined = len({label for pair in both for label in pair}) > 1
    kappa = float(cohen_kappa_score(*zip(*both, strict=True))) if is_defined else None
    return {"a": a, "b": b, "kappa": kappa, "images": len(both)}


def _fleiss(ratings):
    """Returns (kappa, number of images, number of raters)."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    sizes = collections.Counter(len(votes) for votes in ratings.votes.values() if len(votes) > 1)
    if not sizes:
        return None, 0, 0
    raters, images = max(sizes.items(), key=lambda item: (item[1], item[0]))
    rated = [list(votes.values()) for votes in ratings.votes.values() if len(votes) == raters]
    labels = sorted({label for votes in rated for label in votes})
    if len(labels) < 2:
        return None, images, raters
    table = np.array([[votes.count(label) for label in labels] for votes in rated])
    return float(fleiss_kappa(table)), images, raters


def sample(images: Images, share: float, seed: int) -> np.ndarray:
    """Draws a share of the images of each class, at least one.

    Args:
        images: the images.
        share: fraction of the images, in [0, 1].
        seed: seed of the draw.

    Returns:
        Sorted int64 rows.
    """
    drawn = []
    for label in np.unique(images.labels):
        rows = np.flatnonzero(images.labels == label)
        # RandomState's streams are the same in all versions of numpy; Generator's are not.
        shuffled = np.random.RandomState([seed % 2**32, int(label)]).permutation(rows)
        drawn.append(shuffled[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(drawn))


def write_review(path: pathlib.Path | str, images: Images, rows: np.ndarray) -> None:
    """Writes a table for `read` with labels and an empty column for another person's.

    Args:
        path: file to write.
        images: the images.
        rows: rows of the images to list.
    """
    with replacing(path, newline="") as file:
        writer = Writer(file)
        writer.writerow((*IMAGE, f"{WIDE}data", f"{WIDE}review"))
        for row in rows:
            origin = images.origin(int(row))
            place = (origin, "", "", "") if isinstance(origin, str) else ("", *origin)
            writer.writerow((*place, images.class_of(int(row)), ""))
