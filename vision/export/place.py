"""Checks that the directory of an export replaces nothing other than one."""

import pathlib

from vision.bundle.directory import MANIFEST
from vision.errors import UserError
from vision.support.directories import files_in
from vision.support.reading import read_json


def check_place(out: pathlib.Path) -> None:
    """Raises `UserError` if a bundle would replace anything other than a bundle."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"cannot write to --out {out}: it is a file")
    try:
        manifest = read_json(out / MANIFEST, {"sha256": {str: str}})
        own_files = {*manifest["sha256"], MANIFEST}
    except UserError:
        own_files = set()
    names = [file.relative_to(out).as_posix() for file in files_in(out)]
    foreign = [name for name in names if name not in own_files]
    if foreign:
        raise UserError(
            f"--out {out} contains files that are not a bundle's, such as {min(foreign)}: "
            "name another directory"
        )
