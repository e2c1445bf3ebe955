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
from vision.data.packed_names import write_names
from vision.data.records import record_writer
from vision.data.sources import Source, open_splits, parse
from vision.data.sources.packed import (
    FORMAT,
    IMAGE,
    MANIFEST,
    REQUEST,
    SHARD,
    files_of,
    read_manifest,
)
from vision.data.splits import check_labels, make_splits
from vision.errors import RunError, UserError
from vision.support import disk
from vision.support.files import replacing, sync, write_json
from vision.support.lock import NAME as LOCK
from vision.support.lock import locked
from vision.support.processes import ordered
from vision.support.progress import track
from vision.support.reading import read_json
from vision.support.schema import NATURAL, damaged

PROGRESS = "progress.json"
REMEDY = "remove its folder, or pack into a new one"
STATE = {
    "request": REQUEST,
    "plan": {str: NATURAL},
    "shards": {str: SHARD},
    "unreadable": [IMAGE | {"shard": str}],
}
CHUNK = 32  # images that a worker takes at a time
SAMPLE = 64  # images of each part that are encoded to estimate the number of files


class _Shard(NamedTuple):
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
) -> tuple[dict, bool]:
    """Packs a source.

    Args:
        spec: its name, for the manifest.
        parts: {part: source}, see `open_parts`.
        out: the folder to write: a new one, an empty one, or one of an earlier call with the same
            arguments.
        options: how images are packed; None for the defaults.
        workers: number of processes that decode.
        max_unreadable: the share of images that may be unreadable.

    Returns:
        (manifest, new): new is False if the pack was complete already.

    Raises:
        UserError: `out` contains something else, or too many images are unreadable. What is packed
            so far stays.
        RunError: a file cannot be written, or a worker was killed. What is packed so far stays.
    """
    out = Path(out)
    options = options or Options()
    request = _request(spec, parts, options)
    with locked(out, "the folder"):
        state = _resume(out, request)
        if not state:
            return read_manifest(out), False
        try:
            if not state["plan"]:
                state["plan"] = {
                    part: _count_shards(source, options) for part, source in parts.items()
                }
                write_json(out / PROGRESS, state)
            _check_state(out, state, parts)
            _write_shards(out, parts, options, state, workers, max_unreadable)
            write_json(out / MANIFEST, _manifest(out, parts, state))
        except (OSError, RuntimeError) as error:  # a full disk; a worker that was killed
            number = disk.refusal(error)
            reason = os.strerror(number) if number else error
            raise RunError(
                f"packing into '{out}' stopped: {reason}; {disk.remedy(number)}repeat the command "
                "to continue"
            ) from error
        finally:
            _remove_parts(out)
        (out / PROGRESS).unlink(missing_ok=True)
        return read_manifest(out), True


def _request(spec, parts, options):
    """Returns what identifies a pack: the source, the options, the images' names and labels."""
    digest = hashlib.sha256()
    for part, source in parts.items():
        digest.update(json.dumps([part, len(source), source.classes]).encode())
        digest.update(np.ascontiguousarray(source.labels, "<i4").tobytes())
        for index in range(len(source)):
            digest.update(source.name(index).encode("utf-8", "surrogateescape") + b"\0")
    return {"source": spec} | dataclasses.asdict(options) | {"fingerprint": digest.hexdigest()}


def _resume(out, request):
    """Returns the state of an earlier call, with what it finished; {} if the pack is complete.

    Finished files count if their size and SHA-256 are right. Of a complete pack, whose records
    `verify` reads, only the sizes are checked.
    """
    _remove_parts(out)
    names = {file.name for file in out.iterdir()} - {LOCK}
    if not names:
        return {"request": request, "plan": {}, "shards": {}, "unreadable": []}
    if not names & {MANIFEST, PROGRESS}:
        raise UserError(
            f"'{out}' contains something else, such as '{min(names)}': pack into a new folder"
        )
    complete = MANIFEST in names
    state = _state_of(read_manifest(out)) if complete else _read_progress(out / PROGRESS)
    _check_same_request(out, state["request"], request)
    if complete and all(_has_size(out, file) for file in files_of(read_manifest(out))):
        (out / PROGRESS).unlink(missing_ok=True)
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


def _remove_parts(out):
    """Removes unfinished files."""
    for file in out.glob("*.part"):
        file.unlink(missing_ok=True)


def _check_state(out, state, parts):
    """Raises `UserError` if what an earlier call has left does not fit the images."""
    sizes = {part: len(source) for part, source in parts.items()}
    plan = state["plan"]
    names = all(name == shard["file"] for name, shard in state["shards"].items())
    fits = plan.keys() == sizes.keys() and all(plan[part] <= sizes[part] for part in plan)
    places = ((image["part"], image["index"]) for image in state["unreadable"])
    if not (names and fits and all(index < sizes.get(part, 0) for part, index in places)):
        raise damaged(out / PROGRESS, "it does not fit the images", REMEDY)


def _check_same_request(out, old, new):
    if old == new:
        return
    changed = [key for key in new if old.get(key) != new[key]]
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
        "plan": {part: len(files) for part, files in shards.items()},
        "shards": {shard["file"]: shard for files in shards.values() for shard in files},
        "unreadable": manifest["unreadable"],
    }


def _read_progress(path):
    state = read_json(path, STATE, REMEDY)
    return {key: state[key] for key in STATE}


def _has_size(out, file):
    path = out / file["file"]
    return path.is_file() and path.stat().st_size == file["bytes"]


def _has_digest(out, file):
    return sha256(out / file["file"]) == file["sha256"]


def sha256(path: Path | str) -> str:
    """Returns a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _count_shards(source, options):
    """Returns the number of files for a part, estimated from the sizes of some of its images."""
    sizes = []
    for index in np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).astype(int):
        with contextlib.suppress(UnreadableImage):
            sizes.append(len(encode(source, int(index), options)))
    size = np.mean(sizes) * len(source) if sizes else 0
    return int(min(len(source), max(1, math.ceil(size / (options.shard_mib * 2**20)))))


def _write_shards(out, parts, options, state, workers, max_unreadable):
    """Writes the missing files of records, and records each in the progress file."""
    missing = [
        shard for shard in _shards(parts, state["plan"]) if shard.name not in state["shards"]
    ]
    total = sum(map(len, parts.values()))
    with contextlib.closing(_encode_all(missing, parts, options, workers)) as records:
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
                    _check_unreadable([*state["unreadable"], *unreadable], total, max_unreadable)
            sync(out / f"{shard.name}.part")
            os.replace(out / f"{shard.name}.part", out / shard.name)
            images = shard.stop - shard.start - len(unreadable)
            state["shards"][shard.name] = _file_entry(out / shard.name) | {"images": images}
            state["unreadable"] += unreadable
            write_json(out / PROGRESS, state)


def _shards(parts, plan):
    """Returns every `_Shard` of a pack, from {part: number of files}."""
    shards = []
    for part, count in plan.items():
        bounds = np.linspace(0, len(parts[part]), count + 1).astype(int).tolist()
        for i in range(count):
            name = f"{part}-{i:05}-of-{count:05}.array_record"
            shards.append(_Shard(part, name, bounds[i], bounds[i + 1]))
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
    return track((record for chunk in results for record in chunk), images, "packing")


def _check_unreadable(unreadable, total, max_unreadable):
    if len(unreadable) > max_unreadable * total:
        names = ", ".join(image["name"] for image in unreadable[:5])
        more = ", ..." if len(unreadable) > 5 else ""
        raise UserError(
            f"{len(unreadable)} of {total:,} images so far are unreadable, "
            f"more than --max-unreadable={max_unreadable:g} allows:\n"
            f"{names}{more}. Repair them, or raise the limit: what is packed stays"
        )


def _manifest(out, parts, state):
    """Writes the labels, and returns the manifest."""
    entries = {}
    for part, source in parts.items():
        unreadable = [image["index"] for image in state["unreadable"] if image["part"] == part]
        labels = np.delete(source.labels, unreadable).astype("<i4")
        shards = sorted(state["shards"].values(), key=operator.itemgetter("file"))
        entries[part] = {
            "images": len(labels),
            "class_counts": np.bincount(labels, minlength=len(source.classes)).tolist(),
            "labels": _write_labels(out / f"{part}.labels.npy", labels),
            "shards": [shard for shard in shards if shard["file"].startswith(f"{part}-")],
        }
        names = out / f"{part}.names.csv.gz"
        if write_names(names, source, unreadable):
            entries[part]["names"] = _file_entry(names)
            entries[part]["named"] = getattr(base_of(source)[0], "named", True)
    if not any(entry["images"] for entry in entries.values()):
        raise UserError("none of the images can be read: there is nothing to pack")
    findings = dict.fromkeys(finding for source in parts.values() for finding in source.findings)
    return {
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
