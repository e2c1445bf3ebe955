"""Reads all files of a pack and compares their SHA-256 with the manifest's."""

import concurrent.futures
from pathlib import Path

from vision.data.pack import sha256
from vision.data.sources.packed import files_of, read_manifest
from vision.support.processes import cores
from vision.support.progress import track


def verify(directory):
    """Checks a pack.

    Returns:
        (files, bad): how many files there are, and {file: what is wrong}.

    Raises:
        UserError: there is no manifest.
    """
    directory = Path(directory)
    files = files_of(read_manifest(directory))
    # hashing leaves Python's lock alone
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        wrong = list(
            track(pool.map(lambda file: _wrong(directory, file), files), len(files), "verifying")
        )
    return len(files), {file["file"]: why for file, why in zip(files, wrong, strict=True) if why}


def _wrong(directory, file):
    path = directory / file["file"]
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != file["bytes"]:
        return f"has {path.stat().st_size:,} bytes of {file['bytes']:,}"
    return "" if sha256(path) == file["sha256"] else "is damaged: another SHA-256"
