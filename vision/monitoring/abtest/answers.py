"""The answers of two versions, from a prediction log."""

import collections
import dataclasses
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from vision.errors import UserError
from vision.monitoring.log import Log, moment, seconds_of
from vision.reference.features import NAMES

KEYS = ["time", "id", "model", "version", "bundle", "shadow", "image", "class"]


class Window(NamedTuple):
    """Which rows to take: times in seconds since the epoch, the end excluded."""

    since: float = -np.inf
    until: float = np.inf


@dataclasses.dataclass(frozen=True)
class Answers:
    """Rows of two versions of a model, in the order of writing.

    Attributes:
        ids: PyArrow array of text (K,), identifiers of the requests.
        request: integers (N,), the place of each row's in `ids`.
        is_new: bool (N,), whether the new version answered.
        shadow: bool (N,), whether the answer was only logged.
        image: integers (N,), the image's index in the request.
        seconds: float64 (N,), since the epoch.
        predicted: integers (N,), places in `classes`.
        classes: names of the predicted classes.
        numbers: {name: float64 (N,)}, columns of the log; NaN if unknown.
        bundles: fingerprints of the bundles behind the (old, new) version.
    """

    ids: Any
    request: np.ndarray
    is_new: np.ndarray
    shadow: np.ndarray
    image: np.ndarray
    seconds: np.ndarray
    predicted: np.ndarray
    classes: list[str]
    numbers: dict[str, np.ndarray]
    bundles: tuple[list[str], list[str]]


def read_answers(
    log: Log,
    model: str,
    versions: tuple[str, str],
    numbers: Collection[str] = (),
    window: Window | None = None,
) -> Answers:
    """Returns the answers of two versions of a model.

    Args:
        log: the log; it is read part by part, and only the rows of the versions are held.
        model: name of the model.
        versions: (old, new).
        numbers: columns of the log to take, of `vision.reference.features.NAMES`.
        window: the times to take; all by default.

    Raises:
        UserError: a file is damaged, a version has no rows, or was two different bundles.
    """
    window = window or Window()
    seen: collections.Counter = collections.Counter()
    ends = [np.inf, -np.inf]
    parts = []
    columns = [*KEYS, *(name for name in NAMES if name in numbers)]
    for batch in log.batches(columns):
        code = _version_codes(batch, model, versions, seen)
        seconds = seconds_of(batch)
        is_own = code >= 0
        if is_own.any():
            ends = [min(ends[0], seconds[is_own].min()), max(ends[1], seconds[is_own].max())]
        rows = np.flatnonzero(is_own & (seconds >= window.since) & (seconds < window.until))
        if len(rows):
            parts.append(_part(batch, rows, code[rows], seconds[rows], numbers))
    _check_rows(log, model, versions, seen)
    if not parts:
        first, last = (moment(end) for end in ends)
        raise UserError(
            f"--log {log.directory}: the window of --since and --until has no answers of {model}: "
            f"they are from {first} to {last}"
        )
    answers = _joined(parts, numbers)
    _check_versions(log, model, versions, answers)
    return answers


def _version_codes(batch, model, versions, seen):
    """Returns (N,): 0 for rows of the old version, 1 of the new one, -1 of others; counts all."""
    names = batch.column("model").dictionary.to_pylist()
    own = batch.column("version").dictionary.to_pylist()
    model_codes = batch.column("model").indices.to_numpy(zero_copy_only=False)
    version_codes = batch.column("version").indices.to_numpy(zero_copy_only=False)
    codes = model_codes.astype(np.int64) * max(len(own), 1) + version_codes
    for pair, count in enumerate(np.bincount(codes)):
        if count:
            seen[names[pair // len(own)], own[pair % len(own)]] += int(count)
    is_model = np.array([name == model for name in names], bool)[model_codes]
    places = {version: place for place, version in enumerate(versions)}
    code = np.array([places.get(name, -1) for name in own], np.int8)[version_codes]
    return np.where(is_model, code, -1)


def _part(batch, rows, code, seconds, numbers):
    """Returns the columns of some rows of a batch, texts as PyArrow arrays."""
    import pyarrow

    part = batch.take(pyarrow.array(rows))
    columns = {name: part.column(name) for name in ("id", "class", "bundle")}
    for name in ("shadow", "image", *numbers):
        columns[name] = part.column(name).to_numpy(zero_copy_only=False)
    return columns | {"is_new": code == 1, "seconds": seconds}


def _joined(parts, numbers):
    """Returns the `Answers` in all parts; their bundles are not checked yet."""
    import pyarrow

    def joined(name):
        return np.concatenate([part[name] for part in parts])

    def coded(name):
        texts = [part[name].cast(pyarrow.string()) for part in parts]
        return pyarrow.chunked_array(texts).combine_chunks().dictionary_encode()

    ids = coded("id")
    classes = coded("class")
    bundles = coded("bundle")
    is_new = joined("is_new")
    names = np.array(bundles.dictionary.to_pylist(), object)
    behind = [
        [str(name) for name in names[np.unique(bundles.indices.to_numpy()[chosen])] if name]
        for chosen in (~is_new, is_new)
    ]
    return Answers(
        ids=ids.dictionary,
        request=ids.indices.to_numpy(),
        is_new=is_new,
        shadow=joined("shadow").astype(bool),
        image=joined("image"),
        seconds=joined("seconds"),
        predicted=classes.indices.to_numpy(),
        classes=classes.dictionary.to_pylist(),
        numbers={name: joined(name).astype(np.float64) for name in numbers},
        bundles=(behind[0], behind[1]),
    )


def _check_rows(log, model, versions, seen):
    """Raises `UserError` if the log has no rows of the model or of a version."""
    if not seen:
        raise UserError(f"--log {log.directory} has no rows: has the server answered anything?")
    for version in versions:
        if (model, version) not in seen:
            others = [f"{name}/{other} ({rows:,})" for (name, other), rows in seen.most_common(5)]
            raise UserError(
                f"--log {log.directory} has no answers of {model}/{version}, only of "
                f"{', '.join(others)}"
            )


def _check_versions(log, model, versions, answers):
    """Raises `UserError` if a version has no rows in the window, or was two bundles."""
    for place, version in enumerate(versions):
        if not (answers.is_new == bool(place)).any():
            raise UserError(
                f"--log {log.directory}: the window of --since and --until has no answers of "
                f"{model}/{version}"
            )
        if len(answers.bundles[place]) > 1:
            raise UserError(
                f"--log {log.directory}: {model}/{version} was {len(answers.bundles[place])} "
                f"different bundles, {' and '.join(answers.bundles[place][:2])}: choose a window "
                "with only one, with --since and --until"
            )
