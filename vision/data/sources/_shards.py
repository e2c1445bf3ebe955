"""Packs that several processes or machines wrote: a manifest of each, joined when all are there."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vision.errors import UserError
from vision.support.schema import check, damaged

MOST_NAMED = 8  # missing shards that a message lists


@dataclasses.dataclass(frozen=True)
class Shard:
    """A share of a pack: number `index`, from 1, of `count`; 1 of 1 is all of it."""

    index: int = 1
    count: int = 1

    @property
    def suffix(self) -> str:
        """What the names of its own files end with, before the extension."""
        return "" if self.count == 1 else f"-{self.index:05}-of-{self.count:05}"

    def own(self, name: str) -> str:
        """Returns the name of its own file, such as "manifest-00003-of-00016.json"."""
        stem, dot, extension = name.rpartition(".")
        return f"{stem}{self.suffix}{dot}{extension}"

    def positions(self, files: int) -> range:
        """Returns the positions that are this shard's, of a number of files."""
        return range(files * (self.index - 1) // self.count, files * self.index // self.count)


def parse_shard(text: str) -> Shard:
    """Returns the shard that "3/16" means; all of the pack for "".

    Raises:
        UserError: it is not two numbers, or the first is not from 1 to the second.
    """
    if not text:
        return Shard()
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count) <= 99_999):
        raise UserError(f"--shard must be I/N with I from 1 to N, such as 3/16, got {text!r}")
    return Shard(int(index), int(count))


def manifests_of(directory: Path) -> list[Path]:
    """Returns the manifests of shards in a directory."""
    return sorted(directory.glob("manifest-*-of-*.json"))


def join(directory: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Returns one manifest of all shards in a directory, as if one process had written it.

    The "labels" of a part are then a list of files.

    Args:
        directory: the pack.
        read: reads and checks a manifest.

    Raises:
        UserError: shards are missing, or belong to different packs.
    """
    paths = manifests_of(directory)
    shards = [_check(read(path), path) for path in paths]
    first = shards[0]
    for path, shard in zip(paths, shards, strict=True):
        for key in ("format", "request", "classes", "plan"):
            if shard[key] != first[key]:
                raise UserError(
                    f"{path} and {paths[0].name} are shards of different packs ({key}): pack each "
                    "into its own folder"
                )
    count = first["shard"][1]
    missing = missing_shards(directory, count)
    if missing:
        listed = ", ".join(f"{i}/{count}" for i in missing[:MOST_NAMED])
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        raise UserError(
            f"'{directory}' lacks shards of its pack: {listed}{more}. Copy their files here, or "
            f"repeat the pack command with --shard={missing[0]}/{count}"
        )
    shards.sort(key=lambda shard: shard["shard"][0])
    findings = {str(finding): finding for shard in shards for finding in shard["findings"]}
    return first | {
        "parts": {part: _join_part([s["parts"][part] for s in shards]) for part in first["parts"]},
        "unreadable": [image for shard in shards for image in shard["unreadable"]],
        "findings": list(findings.values()),
    }


def missing_shards(directory: Path, count: int) -> list[int]:
    """Returns the numbers of the shards, of `count`, that a directory has no manifest of."""
    return [
        index
        for index in range(1, count + 1)
        if not (directory / f"manifest{Shard(index, count).suffix}.json").is_file()
    ]


def _check(manifest, path):
    remedy = "copy it again, or pack the data into a new folder"
    check(manifest, {"shard": [int], "plan": {str: int}}, path, remedy)
    numbers = manifest["shard"]
    if len(numbers) != 2 or path.name != f"manifest{Shard(*numbers).suffix}.json":
        raise damaged(path, "'shard' must be the numbers in its name", remedy)
    if manifest["parts"].keys() != manifest["plan"].keys():
        raise damaged(path, "'plan' must have the same parts as 'parts'", remedy)
    return manifest


def _join_part(entries):
    counts = np.sum([entry["class_counts"] for entry in entries], axis=0)
    shared = {"named": entries[0]["named"]} if "named" in entries[0] else {}
    return shared | {
        "images": sum(entry["images"] for entry in entries),
        "class_counts": counts.tolist(),
        "labels": [entry["labels"] for entry in entries],
        "names": [entry["names"] for entry in entries if "names" in entry],
        "shards": [file for entry in entries for file in entry["shards"]],
    }
