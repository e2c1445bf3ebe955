"""Reads all files of a pack and compares their SHA-256 with the manifest's."""

import concurrent.futures
from pathlib import Path

from vision.data.sources.packed import files_of, read_manifest
from vision.support.digest import sha256
from vision.support.processes import cores
from vision.support.progress import track


def verify(directory: Path | str) -> tuple[int, dict[str, str]]:
    """Checks a pack.

    Returns:
        (count, problems): the number of files, and {file: what is wrong with it}.

    Raises:
        UserError: there is no manifest.
    """
    directory = Path(directory)
    files = files_of(read_manifest(directory))
    # hashing releases Python's lock
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        checks = pool.map(lambda file: _check(directory, file), files)
        results = list(track(checks, len(files), "verifying", "files"))
    problems = {file["file"]: problem for file, problem in zip(files, results, strict=True)}
    return len(files), {file: problem for file, problem in problems.items() if problem}


def _check(directory, file):
    """Returns what is wrong with a file; "" if nothing is."""
    path = directory / file["file"]
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != file["bytes"]:
        return f"has {size:,} of {file['bytes']:,} bytes"
    return "" if sha256(path) == file["sha256"] else "is damaged: its SHA-256 differs"
