"""Finds the run directories below some directories."""

import os
import pathlib
from collections.abc import Iterator, Sequence

CONFIG = "config.json"
# What a run has below itself that is not another run, and may have many files.
INSIDE = frozenset(("checkpoints", "tensorboard", "evaluation", "importance"))


def find_runs(directories: Sequence[pathlib.Path | str]) -> Iterator[tuple[str, pathlib.Path]]:
    """Yields (name, directory) of everything with a config.json, by name within each directory.

    A name is the path below the directory that was given if there is only one, else the whole path.
    Hidden directories and links to directories are passed over; a run may contain others, as the
    first of two trainings is inside of the second.

    Args:
        directories: they may be runs themselves.
    """
    for directory in map(pathlib.Path, directories):
        for run in _walk(directory):
            below = run.relative_to(directory)
            is_plain = len(directories) == 1 and below.parts
            yield str(below if is_plain else directory / below), run


def _walk(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    try:
        with os.scandir(directory) as entries:
            names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    except OSError:  # removed meanwhile, or not ours to read
        return
    is_run = CONFIG in names
    if is_run:
        yield directory
    for name in sorted(name for name, is_directory in names.items() if is_directory):
        if not name.startswith(".") and not (is_run and name in INSIDE):
            yield from _walk(directory / name)
