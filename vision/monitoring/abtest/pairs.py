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
    shadow_is_new = _pairs_of(answers, True)
    shadow_is_old = _pairs_of(answers, False)
    return Pairs(
        np.concatenate([shadow_is_new[1], shadow_is_old[0]]),
        np.concatenate([shadow_is_new[0], shadow_is_old[1]]),
        shadow_is_new[2] + shadow_is_old[2],
    )


def agreement(answers: Answers, pairs: Pairs) -> float:
    """Returns the share of pairs of the same predicted class; NaN without pairs."""
    same = answers.predicted[pairs.old] == answers.predicted[pairs.new]
    return float(same.mean()) if len(same) else float("nan")


def _pairs_of(answers, shadow_is_new):
    """Returns (rows of the shadow, rows of the other version, images left out)."""
    is_shadow = answers.shadow & (answers.is_new == shadow_is_new)
    is_given = ~answers.shadow & (answers.is_new != shadow_is_new)
    shadow_keys, shadow_rows, shadow_twice = _single(answers, np.flatnonzero(is_shadow))
    given_keys, given_rows, given_twice = _single(answers, np.flatnonzero(is_given))
    _, first, second = np.intersect1d(
        shadow_keys, given_keys, assume_unique=True, return_indices=True
    )
    left_out = len(np.intersect1d(shadow_twice, np.union1d(given_keys, given_twice)))
    left_out += len(np.intersect1d(given_twice, shadow_keys))
    return shadow_rows[first], given_rows[second], left_out


def _single(answers, rows):
    """Returns (keys of the images with one row, these rows, keys of the images with several)."""
    keys = answers.request[rows].astype(np.int64) << 31 | answers.image[rows]
    unique, first, counts = np.unique(keys, return_index=True, return_counts=True)
    is_single = counts == 1
    return unique[is_single], rows[first[is_single]], unique[~is_single]
