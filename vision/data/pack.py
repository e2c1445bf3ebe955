"""Turns any source into a few large files that are quick to read in random order, and to copy: see
`sources/packed.py`.

The files of images go in as they are, byte by byte, so that a run on the pack sees the very pixels;
images that are no files become PNG. Each is decoded once: what cannot be read stays out, and the
manifest names it. A killed command goes on where it was; one that is given again where the pack is
complete does nothing.

A source's own parts are packed, and a run divides them as it would the source's. With `?imbalance=`
or `?flip_labels=`, which change what training sees and not what tests see, the three splits are
packed.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import math
import operator
import os
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from vision.data.changes import change
from vision.data.decode import UnreadableImage, decode
from vision.data.sources import open_splits, parse
from vision.data.sources._records import make_example, record_writer
from vision.data.sources.packed import FORMAT, MANIFEST, files_of, read_manifest
from vision.data.splits import make_splits
from vision.errors import RunError, UserError, check_range
from vision.support.processes import ordered
from vision.support.progress import track

PROGRESS = "progress.json"
CHUNK = 32  # images a worker takes at a time
SAMPLE = 64  # images of each part whose size is looked at, to say how many files there will be


@dataclasses.dataclass(frozen=True)
class Options:
    """How images are packed.

    Attributes:
        shard_mib: about how large a file of records is.
        shorter_side: a longer shorter side is shrunk to so many pixels, by averaging over areas; 0
            = never.
        quality: of the JPEG that a shrunk JPEG becomes, 1 to 100; any other shrunk image becomes a
            PNG.
    """

    shard_mib: int = 256
    shorter_side: int = 0
    quality: int = 95

    def __post_init__(self):
        check_range("--shard-mib", self.shard_mib, self.shard_mib >= 1, "at least 1")
        check_range(
            "--shorter-side",
            self.shorter_side,
            self.shorter_side >= 0,
            "a number of pixels, or 0 to keep the images' size",
        )
        check_range("--quality", self.quality, 1 <= self.quality <= 100, "in [1, 100]")


def open_parts(c, seed):
    """Returns {part: source} of what `config.data` names: its own parts, or after `CHANGES` the
    three splits."""
    parts = open_splits(c.source)
    if {"imbalance", "flip_labels"} & set(parse(c.source)[2]):
        parts = change(make_splits(parts, c.fractions, c.val_fraction, seed), c.source)
    return parts


def pack(spec, parts, out, options=None, workers=1, max_unreadable=0.01):
    """Packs a source.

    Args:
        spec: its name, for the manifest.
        parts: {part: source}, see `open_parts`.
        out: the folder to write; a new one, an empty one, or one of an earlier call for the same.
        options: `Options`.
        workers: processes that decode.
        max_unreadable: the share of images that may be unreadable.

    Returns:
        (manifest, new): new is False where all was there already.

    Raises:
        UserError: `out` holds something else, or too many images are unreadable. What is packed so
            far stays.
        RunError: a file cannot be written, or a worker was killed. Likewise.
    """
    out = Path(out)
    options = options or Options()
    request = _request(spec, parts, options)
    with _locked(out):
        state = _resume(out, request)
        manifest = out / MANIFEST
        if not state:
            return read_manifest(out), False
        if not state["plan"]:
            state["plan"] = {part: _count_shards(source, options) for part, source in parts.items()}
            _write_json(out / PROGRESS, state)
        try:
            _write_shards(out, parts, options, state, workers, max_unreadable)
        except (OSError, RuntimeError) as error:  # a full disk; a worker that was killed
            raise RunError(
                f"packing into '{out}' stopped, and the same command goes on: {error}"
            ) from error
        _write_json(manifest, _manifest(out, parts, state))
        (out / PROGRESS).unlink(missing_ok=True)
        return read_manifest(out), True


def _request(spec, parts, options):
    """Returns what makes two packs the same: the options, and the images' names and labels."""
    digest = hashlib.sha256()
    for part, source in parts.items():
        digest.update(json.dumps([part, len(source), source.classes]).encode())
        digest.update(np.ascontiguousarray(source.labels, "<i4").tobytes())
        for index in range(len(source)):
            digest.update(source.name(index).encode("utf-8", "surrogateescape") + b"\0")
    return {"source": spec} | dataclasses.asdict(options) | {"fingerprint": digest.hexdigest()}


@contextlib.contextmanager
def _locked(out):
    """Makes the folder, and keeps a second process out of it; the lock goes with the process."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot make the folder '{out}': {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(f"another process is packing into '{out}'") from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)


def _resume(out, request):
    """Returns what an earlier call has left to do and has done; {} where nothing is left.

    Finished files count where size and SHA-256 are right. Of a complete pack, whose records
    `verify` reads, only the sizes are looked at.
    """
    for file in out.glob("*.part"):
        file.unlink()
    found = {file.name for file in out.iterdir()}
    if not found:
        return {"request": request, "plan": {}, "shards": {}, "unreadable": []}
    if not found & {MANIFEST, PROGRESS}:
        raise UserError(
            f"'{out}' holds something else, such as '{min(found)}': pack into a new folder"
        )
    complete = MANIFEST in found
    state = _state_of(read_manifest(out)) if complete else _read_progress(out / PROGRESS)
    if state["request"] != request:
        old = state["request"]
        changed = [key for key in request if old.get(key) != request[key]]
        what = (
            f"{changed[0]} was {old.get(changed[0])!r}"
            if changed != ["fingerprint"]
            else "its images have changed"
        )
        raise UserError(
            f"'{out}' holds a pack of other data or options ({what}): remove it, or pack into a new folder"
        )
    if complete and all(_is_whole(out, file) for file in files_of(read_manifest(out))):
        (out / PROGRESS).unlink(missing_ok=True)
        return {}
    state["shards"] = {
        name: s for name, s in state["shards"].items() if _is_whole(out, s) and _is_right(out, s)
    }
    state["unreadable"] = [
        image for image in state["unreadable"] if image["shard"] in state["shards"]
    ]
    return state


def _state_of(manifest):
    shards = {part: entry["shards"] for part, entry in manifest["parts"].items()}
    return {
        "request": manifest["request"],
        "plan": {part: len(files) for part, files in shards.items()},
        "shards": {shard["file"]: shard for files in shards.values() for shard in files},
        "unreadable": manifest["unreadable"],
    }


def _read_progress(path):
    try:
        state = json.loads(path.read_text())
        state["request"], state["plan"], state["shards"], state["unreadable"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not what packing writes: remove its folder, or pack into a new one"
        ) from error
    return state


def _is_whole(out, file):
    path = out / file["file"]
    return path.is_file() and path.stat().st_size == file["bytes"]


def _is_right(out, file):
    return sha256(out / file["file"]) == file["sha256"]


def sha256(path):
    """Returns a file's SHA-256, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _count_shards(source, options):
    """Returns how many files a part is divided into, from the sizes of some of its images."""
    sizes = []
    for index in np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).astype(int):
        with contextlib.suppress(UnreadableImage):
            sizes.append(len(encode(source, int(index), options)))
    size = np.mean(sizes) * len(source) if sizes else 0
    return int(min(len(source), max(1, math.ceil(size / (options.shard_mib * 2**20)))))


def _write_shards(out, parts, options, state, workers, max_unreadable):
    """Writes the files of records that are not there yet, and what is done into the progress file
    after each."""
    todo = []
    for part, count in state["plan"].items():
        bounds = np.linspace(0, len(parts[part]), count + 1).astype(int).tolist()
        names = [f"{part}-{i:05}-of-{count:05}.array_record" for i in range(count)]
        todo += [(part, *shard) for shard in zip(names, bounds, bounds[1:], strict=False)]
    total = sum(map(len, parts.values()))
    missing = [shard for shard in todo if shard[1] not in state["shards"]]
    chunks = [
        (part, range(start, min(start + CHUNK, stop)))
        for part, _, first, stop in missing
        for start in range(first, stop, CHUNK)
    ]
    images = sum(stop - start for *_, start, stop in missing)
    results = ordered(_encode_chunk, chunks, workers, (parts, options))
    records = track((record for chunk in results for record in chunk), images, "packing")
    with contextlib.closing(records):
        for part, name, start, stop in missing:
            unreadable = []
            with record_writer(out / f"{name}.part") as write:
                for index in range(start, stop):
                    record = next(records)
                    if isinstance(record, UnreadableImage):
                        unreadable.append({"part": part, "index": index, "shard": name})
                        unreadable[-1] |= {"name": record.name, "reason": record.reason}
                        _check_unreadable(
                            [*state["unreadable"], *unreadable], total, max_unreadable
                        )
                    else:
                        write(record)
            os.replace(out / f"{name}.part", out / name)
            state["shards"][name] = _file_entry(out / name) | {
                "images": stop - start - len(unreadable)
            }
            state["unreadable"] += unreadable
            _write_json(out / PROGRESS, state)


def _check_unreadable(found, total, share):
    if len(found) > share * total:
        some = ", ".join(image["name"] for image in found[:5]) + (", ..." if len(found) > 5 else "")
        raise UserError(
            f"{len(found)} of {total:,} images so far are unreadable, more than --max-unreadable={share:g} allows:\n"
            f"{some}. Mend them, or raise it: what is packed stays"
        )


def _encode_chunk(state, task):
    """Returns the record of each image of a chunk, or the `UnreadableImage`."""
    (parts, options) = state
    (part, indices) = task
    source = parts[part]
    records = []
    for index in indices:
        try:
            data = encode(source, index, options)
        except UnreadableImage as error:
            records.append(UnreadableImage(error.reason, error.name or source.name(index)))
            continue
        name = source.name(index).encode("utf-8", "surrogateescape")
        features = {"image/encoded": data, "image/name": name, "label": int(source.labels[index])}
        records.append(make_example(features))
    return records


def encode(source, index, options):
    """Returns the bytes of an image's file as `Options` ask for; raises `UnreadableImage`."""
    data = source.file(index)
    if data is None:
        image = source[index]["image"]
    else:
        image = decode(data, name=source.name(index))
    shrinks = options.shorter_side and min(image.shape[:2]) > options.shorter_side
    if data is not None and not shrinks:
        return data
    if shrinks:
        image = _shrink(image, options.shorter_side)
    if data is None or not data.startswith(b"\xff\xd8"):
        return cv2.imencode(".png", image if image.shape[2] == 1 else image[..., ::-1])[1].tobytes()
    if image.shape[2] == 1:
        return simplejpeg.encode_jpeg(image, options.quality, "GRAY", "Gray")
    return simplejpeg.encode_jpeg(image, options.quality, "RGB", "420")


def _shrink(image, shorter):
    height, width = image.shape[:2]
    scale = shorter / min(height, width)
    size = (round(width * scale), round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(
        size[1], size[0], image.shape[2]
    )


def _manifest(out, parts, state):
    """Writes the labels, and returns the manifest."""
    entries = {}
    for part, source in parts.items():
        lost = [image["index"] for image in state["unreadable"] if image["part"] == part]
        labels = np.delete(source.labels, lost).astype("<i4")
        shards = [
            shard
            for shard in sorted(state["shards"].values(), key=operator.itemgetter("file"))
            if shard["file"].startswith(f"{part}-")
        ]
        counts = np.bincount(labels, minlength=len(source.classes)).tolist()
        entries[part] = {"images": len(labels), "class_counts": counts}
        entries[part] |= {
            "labels": _write_labels(out / f"{part}.labels.npy", labels),
            "shards": shards,
        }
    if not any(entry["images"] for entry in entries.values()):
        raise UserError("none of the images can be read: nothing to pack")
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
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
        np.save(file, labels)
    os.replace(part, path)
    return _file_entry(path)


def _file_entry(path):
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _write_json(path, values):
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(values, indent=1))
    os.replace(part, path)
