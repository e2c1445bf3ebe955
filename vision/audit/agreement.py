"""Do several people give the same labels? Cohen's and Fleiss' kappa, and a sample for another
person to label.

A table of their labels, with a header row, in either form; images are named as in
`vision.data.sources.csv`:

    path,label,annotator          path,annotator_anna,annotator_bert
    a/1.jpg,cat,anna              a/1.jpg,cat,dog
    a/1.jpg,dog,bert              a/2.jpg,cat,

An empty label says that this person has not seen the image.
"""

import collections
import csv
import dataclasses
import itertools

import numpy as np

from vision.data.tables import read_rows
from vision.errors import UserError
from vision.support.files import replacing

WIDE = "annotator_"  # how the columns of the second form begin
IMAGE = ("path", "source", "part", "index")


@dataclasses.dataclass(frozen=True)
class Ratings:
    """Who gave which label.

    Attributes:
        annotators: their names, in the order of appearance.
        votes: {image: {annotator: label}}.
    """

    annotators: tuple
    votes: dict


def read(path):
    """Reads a table of several annotators' labels.

    Returns:
        `Ratings`.

    Raises:
        UserError: no such file, no such table, fewer than two annotators, or one gives an image two
            labels.
    """
    header, rows, lines = read_rows(path)
    wide = [column for column in header if column.startswith(WIDE) and column != WIDE]
    named = [column for column in IMAGE if column in header]
    if not named or not (wide or {"label", "annotator"} <= set(header)):
        raise UserError(
            f"{path} has columns {', '.join(header)}: --annotations takes path, label and annotator, "
            f"or path and a column {WIDE}NAME for each person"
        )
    votes = collections.defaultdict(dict)
    annotators = {}
    for row, line in zip(rows, lines, strict=True):
        cells = dict(zip(header, map(str.strip, row), strict=True))
        image = " ".join(filter(None, (cells[column] for column in named)))
        given = {c.removeprefix(WIDE): cells[c] for c in wide} or {
            cells["annotator"]: cells["label"]
        }
        for annotator, label in given.items():
            if not (image and annotator):
                raise UserError(f"{path}, line {line} names no {'annotator' if image else 'image'}")
            if not label:
                continue
            annotators.setdefault(annotator)
            if votes[image].setdefault(annotator, label) != label:
                raise UserError(
                    f"{path}, line {line}: {annotator} gives {image} a second label, {label!r}"
                )
    if len(annotators) < 2:
        raise UserError(
            f"{path} has labels of {len(annotators)} annotator(s): agreement is between two or more"
        )
    return Ratings(tuple(annotators), dict(votes))


def measure(ratings):
    """Measures how far annotators agree beyond chance.

    Cohen's kappa (1960, doi:10.1177/001316446002000104) of each pair, over the images that both
    have seen; Fleiss' (1971, doi:10.1037/h0031619) over the images that have the commonest number
    of labels of at least two, as it needs the same number for all. A kappa is None where it is
    undefined: no image in common, or one label throughout.

    Args:
        ratings: `Ratings`.

    Returns:
        A dict as JSON has it: annotators, images; cohen, [{"a", "b", "kappa", "images"}]; fleiss,
            fleiss_images,
        fleiss_raters; disagreements, [{"image", "labels": {annotator: label}}].
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
    defined = len({label for pair in both for label in pair}) > 1
    kappa = float(cohen_kappa_score(*zip(*both, strict=True))) if defined else None
    return {"a": a, "b": b, "kappa": kappa, "images": len(both)}


def _fleiss(ratings):
    """Returns (kappa, images, raters)."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    sizes = collections.Counter(len(votes) for votes in ratings.votes.values() if len(votes) > 1)
    if not sizes:
        return None, 0, 0
    raters, images = max(sizes.items(), key=lambda item: (item[1], item[0]))
    chosen = [list(votes.values()) for votes in ratings.votes.values() if len(votes) == raters]
    labels = sorted({label for votes in chosen for label in votes})
    if len(labels) < 2:
        return None, images, raters
    table = np.array([[votes.count(label) for label in labels] for votes in chosen])
    return float(fleiss_kappa(table)), images, raters


def sample(images, share, seed):
    """Draws a share of the images of each class, and at least one.

    Args:
        images: `vision.audit.images.Images`.
        share: in [0, 1].
        seed: of the draw.

    Returns:
        Sorted int64 rows.
    """
    chosen = []
    for label in np.unique(images.labels):
        rows = np.flatnonzero(images.labels == label)
        # RandomState's streams are frozen for all versions of numpy; Generator's are not.
        shuffled = np.random.RandomState([seed % 2**32, int(label)]).permutation(rows)
        chosen.append(shuffled[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(chosen))


def write_review(path, images, rows):
    """Writes a table of images with their labels and an empty column for another person's, in the
    form of `read`.

    Args:
        path: the file.
        images: `vision.audit.images.Images`.
        rows: of the images.
    """
    with replacing(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*IMAGE, f"{WIDE}data", f"{WIDE}review"))
        for row in rows:
            origin = images.origin(int(row))
            place = (origin, "", "", "") if isinstance(origin, str) else ("", *origin)
            writer.writerow((*place, images.class_of(int(row)), ""))
