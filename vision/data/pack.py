"""Packs any source into a few large files that are fast to read in random order, and to copy.

For the format see `sources/packed.py`. Image files are packed byte by byte, so that a run on the
pack sees exactly the same pixels; images that are not files become PNG. Each is decoded once:
unreadable ones are left out, and the manifest names them. A killed command continues where it was;
one that is repeated on a complete pack does nothing.

A source's own parts are packed, and a run divides them as it would divide the source's. With
`?imbalance=` or `?flip_labels=`, which change the training data and not the test data, the three
splits are packed.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vision.data.changes import change
from vision.data.decode import UnreadableImage
from vision.data.encode import Options, encode, encode_chunk
from vision.data.identity import base_of
from vision.data.pack_progress import check_state, read_progress
from vision.data.packed_names import write_names
from vision.data.records import record_writer
from vision.data.sources import Source, open_splits, parse
from vision.data.sources._shards import Shard, manifests_of
from vision.data.sources.packed import (
    FORMAT,
    MANIFEST,
    check_manifest,
    digest_of,
    entry_files,
    files_of,
    read_manifest,
)
from vision.data.splits import check_labels, make_splits
from vision.errors import RunError, UserError
from vision.support import disk
from vision.support.digest import sha256
from vision.support.files import replacing, sync, write_json
from vision.support.lock import NAME as LOCK
from vision.support.lock import locked
from vision.support.processes import ordered
from vision.support.progress import track

PROGRESS = "progress.json"
ALL = Shard()  # a pack that one process writes
CHUNK = 32  # images that a worker takes at a time
SAMPLE = 64  # images of each part that are encoded to estimate the number of files


class _Records(NamedTuple):
    """A file of records: its part, its name, and the images [start, stop) of the part."""

    part: str
    name: str
    start: int
    stop: int


def open_parts(config: ConfigDict, seed: int) -> dict[str, Source]:
    """Opens the parts to pack: the source's own or, after `CHANGES`, the three splits.

    Args:
        config: config.data.
        seed: the seed of the division into splits.

    Returns:
        {part: source}.
    """
    parts = open_splits(config.source, config.bits)
    check_labels(parts)
    if {"imbalance", "flip_labels"} & set(parse(config.source)[2]):
        splits = make_splits(parts, config.fractions, config.val_fraction, seed, config.split_by)
        parts = change(splits, config.source)
    return parts


def pack(
    spec: str,
    parts: Mapping[str, Source],
    out: Path | str,
    options: Options | None = None,
    workers: int = 1,
    max_unreadable: float = 0.01,
    shard: Shard = ALL,
) -> tuple[dict, bool]:
    """Packs a source, or a share of it.

    Args:
        spec: its name, for the manifest.
        parts: {part: source}, see `open_parts`.
        out: the folder to write: a new one, an empty one, or one of an earlier call with the same
            arguments.
        options: how images are packed; None for the defaults.
        workers: number of processes that decode.
        max_unreadable: the share of images that may be unreadable.
        shard: the share to pack; other processes pack the others, into the same folder or into
            folders whose files are then put into one.

    Returns:
        (manifest, new): the manifest is that of the share; new is False if it was complete already.

    Raises:
        UserError: `out` contains something else, or too many images are unreadable. What is packed
            so far stays.
        RunError: a file cannot be written, or a worker was killed. What is packed so far stays.
    """
    out = Path(out)
    options = options or Options()
    request = _request(spec, parts, options)
    progress = out / shard.own(PROGRESS)
    if shard != ALL:
        request["shards"] = shard.count
    with locked(out, "the folder", f"{LOCK}{shard.suffix}"):
        state = _resume(out, request, shard)
        if not state:
            return _read_own(out, shard), False
        check_state(progress, state, parts)
        try:
            if not state["plan"]:
                state["plan"] = {
                    part: max(_count_files(source, options), min(shard.count, len(source)))
                    for part, source in parts.items()
                }
                write_json(progress, state)
            _write_files(out, parts, options, state, _Limits(workers, max_unreadable, shard))
            manifest = _manifest(out, parts, state, shard)
            write_json(out / shard.own(MANIFEST), manifest | {"sha256": digest_of(manifest)})
        except (OSError, RuntimeError) as error:  # a full disk; a worker that was killed
            number = disk.refusal(error)
            reason = os.strerror(number) if number else error
            raise RunError(
                f"packing into '{out}' stopped: {reason}; {disk.remedy(number)}repeat the command "
                "to continue"
            ) from error
        finally:
            _remove_parts(out, [records.name for records in _files(parts, state["plan"], shard)])
        progress.unlink(missing_ok=True)
        return _read_own(out, shard), True


class _Limits(NamedTuple):
    """What one process does of a pack."""

    workers: int
    max_unreadable: float
    shard: Shard


def _read_own(out, shard):
    """Returns the manifest of a shard, or of all."""
    if shard == ALL:
        return read_manifest(out)
    return check_manifest(out / shard.own(MANIFEST))


def _request(spec, parts, options):
    """Returns what identifies a pack: the source, the options, the images' names and labels."""
    digest = hashlib.sha256()
    for part, source in parts.items():
        digest.update(json.dumps([part, len(source), source.classes]).encode())
        digest.update(np.ascontiguousarray(source.labels, "<i4").tobytes())
        for index in range(len(source)):
            digest.update(source.name(index).encode("utf-8", "surrogateescape") + b"\0")
    return {"source": spec} | dataclasses.asdict(options) | {"fingerprint": digest.hexdigest()}


def _resume(out, request, shard):
    """Returns the state of an earlier call, with what it finished; {} if the pack is complete.

    Finished files count if their size and SHA-256 are right. Of a complete pack, whose records
    `verify` reads, only the sizes are checked, and the digests of the labels.
    """
    _check_kind(out, shard)
    manifest = out / shard.own(MANIFEST)
    progress = out / shard.own(PROGRESS)
    complete = manifest.is_file()
    if not complete and not progress.is_file():
        return {"request": request, "plan": {}, "shards": {}, "unreadable": []}
    state = _state_of(_read_own(out, shard)) if complete else read_progress(progress)
    _check_same_request(out, state["request"], request)
    if complete and _is_intact(out, _read_own(out, shard)):
        progress.unlink(missing_ok=True)
        return {}
    state["shards"] = {
        name: shard
        for name, shard in state["shards"].items()
        if _has_size(out, shard) and _has_digest(out, shard)
    }
    state["unreadable"] = [
        image for image in state["unreadable"] if image["shard"] in state["shards"]
    ]
    return state


def _remove_parts(out, names=None):
    """Removes unfinished files: those of some names, or all."""
    unfinished = out.glob("*.part") if names is None else [out / f"{name}.part" for name in names]
    for file in unfinished:
        file.unlink(missing_ok=True)


def _check_kind(out, shard):
    """Raises `UserError` unless a folder is empty, or has what this call may continue."""
    if shard == ALL:
        _remove_parts(out)
    names = {file.name for file in out.iterdir() if file.suffix != ".part" and file.name[0] != "."}
    divided = bool(manifests_of(out) or list(out.glob("progress-*-of-*.json")))
    if divided and shard == ALL:
        raise UserError(f"'{out}' contains shards of a pack: give --shard, or another folder")
    if names & {MANIFEST, PROGRESS} and shard != ALL:
        raise UserError(f"'{out}' contains a pack without shards: pack into a new folder")
    if names and not divided and not names & {MANIFEST, PROGRESS}:
        raise UserError(
            f"'{out}' contains other files, such as '{min(names)}': pack into a new folder"
        )


def _is_intact(out, manifest):
    parts = manifest["parts"].values()
    small = [f for part in parts for key in ("labels", "names") for f in entry_files(part, key)]
    return all(_has_size(out, file) for file in files_of(manifest)) and all(
        _has_digest(out, file) for file in small
    )


def _check_same_request(out, old, new):
    if old == new:
        return
    changed = [key for key in {**new, **old} if old.get(key) != new.get(key)]
    reason = f"{changed[0]} was {old.get(changed[0])!r}"
    if changed == ["fingerprint"]:
        reason = "its images have changed"
    raise UserError(
        f"'{out}' contains a pack of other data or options ({reason}): "
        "remove it, or pack into a new folder"
    )


def _state_of(manifest):
    shards = {part: entry["shards"] for part, entry in manifest["parts"].items()}
    return {
        "request": manifest["request"],
        "plan": manifest.get("plan") or {part: len(files) for part, files in shards.items()},
        "shards": {shard["file"]: shard for files in shards.values() for shard in files},
        "unreadable": manifest["unreadable"],
    }


def _has_size(out, file):
    path = out / file["file"]
    return path.is_file() and path.stat().st_size == file["bytes"]


def _has_digest(out, file):
    return sha256(out / file["file"]) == file["sha256"]


def _count_files(source, options):
    """Returns the number of files for a part, estimated from the sizes of some of its images."""
    sizes = []
    for index in np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).astype(int):
        with contextlib.suppress(UnreadableImage):
            sizes.append(len(encode(source, int(index), options)))
    size = np.mean(sizes) * len(source) if sizes else 0
    return int(min(len(source), max(1, math.ceil(size / (options.shard_mib * 2**20)))))


def _write_files(out, parts, options, state, limits):
    """Writes the missing files of records, and records each in the progress file."""
    own = _files(parts, state["plan"], limits.shard)
    missing = [shard for shard in own if shard.name not in state["shards"]]
    total = sum(shard.stop - shard.start for shard in own)
    with contextlib.closing(_encode_all(missing, parts, options, limits.workers)) as records:
        for shard in missing:
            unreadable = []
            with record_writer(out / f"{shard.name}.part") as write:
                for index in range(shard.start, shard.stop):
                    record = next(records)
                    if not isinstance(record, UnreadableImage):
                        write(record)
                        continue
                    entry = {"part": shard.part, "index": index, "shard": shard.name}
                    unreadable.append(entry | {"name": record.name, "reason": record.reason})
                    failed = [*state["unreadable"], *unreadable]
                    _check_unreadable(failed, total, limits.max_unreadable)
            sync(out / f"{shard.name}.part")
            os.replace(out / f"{shard.name}.part", out / shard.name)
            images = shard.stop - shard.start - len(unreadable)
            state["shards"][shard.name] = _file_entry(out / shard.name) | {"images": images}
            state["unreadable"] += unreadable
            write_json(out / limits.shard.own(PROGRESS), state)


def _files(parts, plan, shard):
    """Returns every `_Records` of a share, from {part: number of files}."""
    shards = []
    for part, count in plan.items():
        bounds = np.linspace(0, len(parts[part]), count + 1).astype(int).tolist()
        for i in shard.positions(count):
            name = f"{part}-{i:05}-of-{count:05}.array_record"
            shards.append(_Records(part, name, bounds[i], bounds[i + 1]))
    return shards


def _encode_all(shards, parts, options, workers):
    """Yields the record of each image of some shards, or its `UnreadableImage`, in order."""
    chunks = [
        (shard.part, range(start, min(start + CHUNK, shard.stop)))
        for shard in shards
        for start in range(shard.start, shard.stop, CHUNK)
    ]
    images = sum(shard.stop - shard.start for shard in shards)
    results = ordered(encode_chunk, chunks, workers, (parts, options))
    records = (record for chunk in results for record in chunk)
    return track(records, images, "packing", "images")


def _check_unreadable(unreadable, total, max_unreadable):
    if len(unreadable) > max_unreadable * total:
        names = ", ".join(image["name"] for image in unreadable[:5])
        more = ", ..." if len(unreadable) > 5 else ""
        raise UserError(
            f"{len(unreadable)} of {total:,} images so far are unreadable, "
            f"more than --max-unreadable={max_unreadable:g} allows:\n"
            f"{names}{more}. Repair them, or raise the limit: packed images are kept"
        )


def _manifest(out, parts, state, shard):
    """Writes the labels, and returns the manifest."""
    entries = {}
    own = _files(parts, state["plan"], shard)
    for part, source in parts.items():
        kept = np.zeros(len(source), bool)
        for records in own:
            if records.part == part:
                kept[records.start : records.stop] = True
        kept[[image["index"] for image in state["unreadable"] if image["part"] == part]] = False
        labels = np.asarray(source.labels)[kept].astype("<i4")
        shards = sorted(state["shards"].values(), key=operator.itemgetter("file"))
        entries[part] = {
            "images": len(labels),
            "class_counts": np.bincount(labels, minlength=len(source.classes)).tolist(),
            "labels": _write_labels(out / shard.own(f"{part}.labels.npy"), labels),
            "shards": [shard for shard in shards if shard["file"].startswith(f"{part}-")],
        }
        names = out / shard.own(f"{part}.names.csv.gz")
        if write_names(names, source, np.flatnonzero(~kept)):
            entries[part]["names"] = _file_entry(names)
            entries[part]["named"] = getattr(base_of(source)[0], "named", True)
    if shard == ALL and not any(entry["images"] for entry in entries.values()):
        raise UserError("none of the images can be read: there is nothing to pack")
    findings = dict.fromkeys(finding for source in parts.values() for finding in source.findings)
    share = {} if shard == ALL else {"shard": [shard.index, shard.count], "plan": state["plan"]}
    return share | {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "request": state["request"],
        "classes": list(next(iter(parts.values())).classes),
        "parts": entries,
        "unreadable": sorted(
            state["unreadable"], key=lambda image: (image["part"], image["index"])
        ),
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }


def _write_labels(path, labels):
    with replacing(path, binary=True) as file:
        np.save(file, labels)
    return _file_entry(path)


def _file_entry(path):
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
