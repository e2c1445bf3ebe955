"""Shadow answers beside the answers that were given: pairs of the same image.

A shadow answers requests that another version has answered, for the log only. So the two are never
two samples: every image is compared with itself, which needs far fewer of them.
"""

from typing import NamedTuple

import numpy as np

from vision.monitoring.abtest.answers import Answers


class Pairs(NamedTuple):
    """Images that both versions answered, one of them as a shadow.

    Attributes:
        old: integers (P,), rows of the old version's answers.
        new: integers (P,), rows of the new one's.
        left_out: images with two rows of a version, which are in no pair: a client has used a
            request's identifier twice.
    """

    old: np.ndarray
    new: np.ndarray
    left_out: int


def find_pairs(answers: Answers) -> Pairs:
    """Returns the pairs of a shadow's answer and of the answer that was given, by id and image."""
    old = []
    new = []
    left_out = 0
    for shadow_is_new in (True, False):
        shadows = np.flatnonzero(answers.shadow & (answers.is_new == shadow_is_new))
        given = np.flatnonzero(~answers.shadow & (answers.is_new != shadow_is_new))
        shadow_keys, shadow_rows, shadow_twice = _single(answers, shadows)
        given_keys, given_rows, given_twice = _single(answers, given)
        _, first, second = np.intersect1d(
            shadow_keys, given_keys, assume_unique=True, return_indices=True
        )
        left_out += len(np.intersect1d(shadow_twice, np.union1d(given_keys, given_twice)))
        left_out += len(np.intersect1d(given_twice, shadow_keys))
        pair = (shadow_rows[first], given_rows[second])
        new.append(pair[0 if shadow_is_new else 1])
        old.append(pair[1 if shadow_is_new else 0])
    return Pairs(np.concatenate(old), np.concatenate(new), left_out)


def agreement(answers: Answers, pairs: Pairs) -> float:
    """Returns the share of pairs of the same predicted class; NaN without pairs."""
    same = answers.predicted[pairs.old] == answers.predicted[pairs.new]
    return float(same.mean()) if len(same) else float("nan")


def _single(answers, rows):
    """Returns (keys of the images with one row, these rows, keys of the images with several)."""
    keys = answers.request[rows].astype(np.int64) << 31 | answers.image[rows]
    unique, first, counts = np.unique(keys, return_index=True, return_counts=True)
    is_single = counts == 1
    return unique[is_single], rows[first[is_single]], unique[~is_single]
