"""The images that a server has kept, what its log says of each, and the windows around them."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from vision.bundle.directory import MANIFEST, Manifest, read_manifest
from vision.errors import UserError
from vision.monitoring import analysis
from vision.monitoring.labeling.collection import Key
from vision.monitoring.log import Log, open_log
from vision.monitoring.windows import COLUMNS, History, Rows, Selector, Slot, Span
from vision.reference.sketch import DIMENSIONS
from vision.reference.statistics import Reference, parse
from vision.reference.verdict import LIMITS, assess

ANSWER = ["id", "image", "model", "version", "bundle", "class", "confidence"]


class Other(NamedTuple):
    """What another version said of an image, whose class differs."""

    version: str
    label: str
    confidence: float


@dataclasses.dataclass(frozen=True)
class Candidates:
    """N kept images of one bundle.

    Attributes:
        files: where they are, N.
        requests: identifiers of their requests, N.
        indices: int64 (N,), each image's index in its request.
        rows: the log's rows of them, N; `kept` is empty.
        windows: int64 (N,), the number of each row's window.
        others: {place: answer of another version, with another class}, the surest.
    """

    files: list[pathlib.Path]
    requests: list[str]
    indices: np.ndarray
    rows: Rows
    windows: np.ndarray
    others: dict[int, Other] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What a log says.

    Attributes:
        manifest: the bundle's.
        reference: the bundle's.
        candidates: the images that are there.
        gone: images that were kept and have been deleted since.
        alarms: {number of a window that alarms: (the window, names of the features that do)}.
        tested: windows that were compared.
        taken: float16 (E, 16), sketches of images that earlier collections had.
    """

    manifest: Manifest
    reference: Reference
    candidates: Candidates
    gone: int
    alarms: dict[int, tuple[Slot, list[str]]]
    tested: int
    taken: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros((0, DIMENSIONS), np.float16)
    )


class Source(analysis.Source, Protocol):
    """What `gather` reads of a request."""

    @property
    def span(self) -> Span: ...

    @property
    def history(self) -> int: ...


def gather(
    request: Source,
    report: Callable[[str], object] = print,
    earlier: Collection[Key] = frozenset(),
) -> Gathered:
    """Reads a log twice: for the bundle's rows, then for other versions' answers to kept images.

    Args:
        request: the bundle that was served, the server's prediction log, how long a window of drift
            is, and how many are compared with the reference, the latest.
        report: called with a line of text for each oddity of the log.
        earlier: images that earlier collections had, which are not candidates.

    Raises:
        UserError: the bundle has no reference; the log cannot be read, has no rows of this model,
            no images or only those of earlier collections; its clock went back, and windows are
            times.
    """
    manifest = read_manifest(request.bundle)
    reference = parse(manifest.reference, len(manifest.classes), request.bundle / MANIFEST)
    log = open_log(request.log)
    analysis.report_skipped(log, report)
    selector = Selector(manifest.fingerprint, tuple(manifest.classes))
    windows = History(reference, request.span, request.history)
    parts = [_part(selector, windows, log, batch) for batch in _batches(log)]
    analysis.check_clock(log, request.span, report)
    candidates = _joined([part for part in parts if len(part)])
    if candidates is None:
        raise _nothing(request, selector)
    candidates, taken = _without(candidates, earlier)
    if not len(candidates):
        raise UserError(
            f"--log {request.log}: all {len(taken):,} images that it kept are in --earlier: "
            "collect again once the server has kept others"
        )
    exists = np.array([file.is_file() for file in candidates.files], bool)
    if not exists.any():
        raise UserError(
            f"--log {request.log}: all {len(exists):,} images that it kept have been deleted: "
            "label earlier, or give the server more --keep-days"
        )
    candidates = _chosen(candidates, np.flatnonzero(exists))
    others = _others(log, candidates, manifest)
    slots = windows.full(time.time())
    return Gathered(
        manifest,
        reference,
        dataclasses.replace(candidates, others=others),
        int((~exists).sum()),
        alarms(reference, slots),
        len(slots),
        taken,
    )


def _batches(log: Log) -> Iterator[Any]:
    return log.batches([*COLUMNS, "id", "image"])


def _part(selector, windows, log, batch):
    """Adds a batch to the windows; returns its `Candidates`."""
    rows = selector.select(batch)
    numbers = windows.numbers(rows)
    windows.add(rows)
    places = np.array(sorted(rows.kept), np.int64)
    chosen = selector.places(batch)[places]
    return Candidates(
        [log.image(rows.kept[place]) for place in places.tolist()],
        batch.column("id").take(chosen).to_pylist(),
        batch.column("image").to_numpy(zero_copy_only=False)[chosen].astype(np.int64),
        rows.part(places)._replace(kept={}),
        numbers[places],
    )


def _joined(parts):
    """Returns the candidates of all parts; None if there are none."""
    if not parts:
        return None
    columns = zip(*(part.rows[:-1] for part in parts), strict=True)
    return Candidates(
        [file for part in parts for file in part.files],
        [request for part in parts for request in part.requests],
        np.concatenate([part.indices for part in parts]),
        Rows(*map(np.concatenate, columns), {}),
        np.concatenate([part.windows for part in parts]),
    )


def _without(candidates, earlier):
    """Returns the candidates that are not in earlier collections, and the others' sketches."""
    keys = zip(candidates.requests, candidates.indices.tolist(), strict=True)
    is_earlier = np.array([key in earlier for key in keys], bool)
    taken = candidates.rows.sketches[is_earlier]
    return _chosen(candidates, np.flatnonzero(~is_earlier)), taken


def _chosen(candidates, places):
    return Candidates(
        [candidates.files[place] for place in places],
        [candidates.requests[place] for place in places],
        candidates.indices[places],
        candidates.rows.part(places),
        candidates.windows[places],
    )


def _nothing(request, selector):
    """Returns the error for a log without images."""
    if not selector.rows:
        return analysis.too_few(request, selector.rows, selector.others)
    return UserError(
        f"--log {request.log} has {selector.rows:,} rows of this model but no images: start the "
        "server with --keep-images 0.01"
    )


def _others(log: Log, candidates: Candidates, manifest: Manifest) -> dict[int, Other]:
    """Returns {place: `Other`} of the images of which another bundle said another class."""
    import pyarrow
    import pyarrow.compute

    keys = zip(candidates.requests, candidates.indices.tolist(), strict=True)
    places = {key: place for place, key in enumerate(keys)}
    wanted = pyarrow.array(sorted(set(candidates.requests)), pyarrow.string())
    others: dict[int, Other] = {}
    for batch in log.batches(ANSWER):
        is_wanted = pyarrow.compute.is_in(batch.column("id"), value_set=wanted)
        for row in batch.filter(is_wanted).to_pylist():
            place = places.get((row["id"], row["image"]))
            if place is None or row["bundle"] == manifest.fingerprint:
                continue
            label = manifest.classes[candidates.rows.classes[place]]
            if row["class"] == label:
                continue
            if place not in others or row["confidence"] > others[place].confidence:
                others[place] = Other(row["version"], row["class"], row["confidence"])
    return others


def alarms(reference: Reference, slots: list[Slot]) -> dict[int, tuple[Slot, list[str]]]:
    """Returns {number: (window, names of the features that alarm)} of the windows that do."""
    alarming = {}
    for slot in slots:
        verdict: dict[str, Any] = assess(reference, slot.window, LIMITS, slot.number)
        names = [name for name, m in verdict["features"].items() if m.get("alarm")]
        if names:
            alarming[slot.number] = (slot, names)
    return alarming
