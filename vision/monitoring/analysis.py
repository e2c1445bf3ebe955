"""From a log and a bundle to what has drifted, in which windows, since when."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from vision.bundle.directory import MANIFEST, read_manifest
from vision.errors import UserError
from vision.monitoring.log import Log, moment, open_log
from vision.monitoring.windows import COLUMNS, History, Selector, Slot, Span
from vision.reference.statistics import Reference, parse
from vision.reference.verdict import Limits, assess
from vision.support.progress import track

FORMAT = 1  # of drift.json


@dataclasses.dataclass(frozen=True)
class Request:
    """What to compare.

    Attributes:
        bundle: directory of the bundle.
        log: directory of the prediction log.
        window: as --window gives it, for the record.
        span: the same, parsed.
        history: windows to compare, the latest.
        limits: when a window alarms.
    """

    bundle: pathlib.Path
    log: pathlib.Path
    window: str
    span: Span
    history: int
    limits: Limits


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What was compared.

    Attributes:
        record: the contents of drift.json.
        reference: the bundle's.
        slots: the windows, as in the record.
        log: the log.
        classes: names of the bundle's classes.
    """

    record: dict[str, Any]
    reference: Reference
    slots: list[Slot]
    log: Log
    classes: Sequence[str]


def analyze(request: Request, report: Callable[[str], object] = print) -> Analysis:
    """Compares the windows of a log with a bundle's reference.

    Args:
        request: what to compare.
        report: called with a line of text for each oddity of the log.

    Raises:
        UserError: the bundle has no reference; the log cannot be read, has no rows of this model or
            fewer than a window; its clock went back, and windows are times.
    """
    manifest = read_manifest(request.bundle)
    reference = parse(manifest.reference, len(manifest.classes), request.bundle / MANIFEST)
    log = open_log(request.log)
    report_skipped(log, report)
    selector = Selector(manifest.fingerprint, tuple(manifest.classes))
    history = History(reference, request.span, request.history)
    for batch in log.batches(COLUMNS):
        history.add(selector.select(batch))
    check_clock(log, request.span, report)
    slots = history.full(time.time())
    if not slots:
        raise too_few(request, selector.rows, selector.others)
    assessed = (assess(reference, slot.window, request.limits, slot.number) for slot in slots)
    verdicts = list(track(assessed, len(slots), "comparing with the reference", "windows"))
    record = _record(request, manifest, selector, log)
    record["rows_of_forgotten_windows"] = history.late
    record |= _outcome(manifest, reference, slots, verdicts)
    return Analysis(record, reference, slots, log, manifest.classes)


def since(windows: list[Mapping[str, Any]], feature: str) -> Mapping[str, Any]:
    """Returns the first of the last windows that all alarm for a feature.

    Args:
        windows: verdicts, the last of which alarms for it.
        feature: its name.
    """
    first = windows[-1]
    for window in reversed(windows):
        measures = window["features"][feature]
        if "p" not in measures:  # too few images to tell
            continue
        if not measures["alarm"]:
            break
        first = window
    return first


def report_skipped(log: Log, report: Callable[[str], object]) -> None:
    """Reports the first files of a log that are not read."""
    for name, reason in list(log.skipped.items())[:3]:
        report(f"{name} is not read: {reason} ({len(log.skipped):,} such files)")


def check_clock(log: Log, span: Span, report: Callable[[str], object]) -> None:
    """Raises `UserError` if windows are times and the clock went back; else reports it."""
    if not log.steps_back:
        return
    name, step = next(iter(log.steps_back.items()))
    reason = f"--log {log.directory}: the server's clock went back by {step:,.0f} s in {name}"
    if span.seconds:
        raise UserError(
            f"{reason}, so windows of time would mix rows of different times.\nGive --window ROWS: "
            "windows of rows follow the order of writing"
        )
    report(f"{reason}; windows of rows follow the order of writing")


class Source(Protocol):
    """What `too_few` and `describe_sources` read of a request."""

    @property
    def bundle(self) -> pathlib.Path: ...

    @property
    def log(self) -> pathlib.Path: ...

    @property
    def window(self) -> str: ...


def too_few(request: Source, rows: int, others: Mapping[tuple[str, str], int]) -> UserError:
    """Returns the error for a log that has no full window of a bundle.

    Args:
        request: what was to be compared.
        rows: the bundle's rows in the log.
        others: {(model, version): rows of other bundles}.
    """
    if rows:
        return UserError(
            f"--log {request.log} has {rows:,} rows of this model, fewer than a window: give a "
            f"smaller --window than {request.window}, or wait"
        )
    names = ", ".join(f"{model}/{version}" for model, version in list(others)[:5])
    if names:
        return UserError(
            f"--log {request.log} has no rows of the model in --bundle {request.bundle}, only of "
            f"{names}: give the bundle that was served"
        )
    return UserError(f"--log {request.log} has no rows: has the server answered anything?")


def describe_sources(request: Source, fingerprint: str, log: Log) -> dict[str, Any]:
    """Returns {"bundle", "log", "window"} of a record.

    Args:
        request: what was compared.
        fingerprint: the bundle's.
        log: the log, read to its end.
    """
    return {
        "bundle": {"directory": str(request.bundle), "fingerprint": fingerprint},
        "log": {
            "directory": str(request.log),
            "files": len(log.files),
            "skipped": log.skipped,
            "steps_back": log.steps_back,
        },
        "window": request.window,
    }


def _record(request, manifest, selector, log):
    return {
        "format": FORMAT,
        **describe_sources(request, manifest.fingerprint, log),
        "rows": selector.rows,
        "served_as": [
            {"model": model, "version": version, "rows": rows}
            for (model, version), rows in selector.names.items()
        ],
        "other_rows": sum(selector.others.values()),
        "limits": dataclasses.asdict(request.limits),
    }


def _outcome(manifest, reference, slots, verdicts):
    """Returns {"alarm", "alarms", "windows"} of the record."""
    windows = [
        {
            "number": slot.number,
            "start": moment(slot.window.start),
            "end": moment(slot.window.end),
            **verdict,
            "classes": _named(verdict["classes"], manifest.classes, reference, slot.window),
        }
        for slot, verdict in zip(slots, verdicts, strict=True)
    ]
    last = windows[-1]
    alarms = [
        {"feature": name, "since": since(windows, name)["start"], **measures}
        for name, measures in last["features"].items()
        if measures.get("alarm")
    ]
    alarms.sort(key=lambda alarm: -alarm["effect"])
    return {"alarm": last["alarm"], "alarms": alarms, "windows": windows}


def _named(places, classes, reference, window):
    """Returns [{"class", "expected", "share"}] of some classes."""
    expected = reference.class_counts / reference.class_counts.sum()
    shares = window.classes / window.classes.sum()
    return [
        {"class": classes[i], "expected": float(expected[i]), "share": float(shares[i])}
        for i in places
    ]
