"""Packages of npm whose files an export takes: of one version each, checked by their SHA-512.

npm_packages.json pins them, and says what their files are called in the export. They are downloaded
once, by npm itself, so that its configuration (registry, proxy, certificates) holds.
"""

import base64
import functools
import hashlib
import io
import json
import pathlib
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from typing import Any

from vision.errors import RunError, UserError
from vision.support import disk
from vision.support.files import new_directory, replacing
from vision.support.processes import bound
from vision.support.progress import waiting

CACHE = pathlib.Path("~/.cache/vision/npm")
PATIENCE = 900.0  # seconds that npm may take
LONGEST_REASON = 300  # characters of npm's own message


@functools.cache
def pinned() -> dict[str, list[dict[str, Any]]]:
    """Returns {runtime: its packages}, the contents of npm_packages.json."""
    return json.loads(pathlib.Path(__file__).with_name("npm_packages.json").read_text())


def fetch(
    packages: Sequence[dict[str, Any]], folder: str = "", cache: pathlib.Path = CACHE
) -> list[bytes]:
    """Returns the tarballs of packages, each checked.

    Args:
        packages: of `pinned`.
        folder: where the tarballs are, as `npm pack` names them; "" for the cache, into which those
            that are missing are downloaded.
        cache: directory to keep downloads in.

    Raises:
        UserError: one is missing or is another file; there is no npm to download it.
        RunError: npm fails.
    """
    if folder:
        given = pathlib.Path(folder)
        for package in packages:
            if not (given / _file_name(package)).is_file():
                raise UserError(
                    f"--web-packages {folder} has no {_file_name(package)}: run there\n"
                    f"{_command(packages)}"
                )
        return [_read(given / _file_name(package), package, packages) for package in packages]
    cache = cache.expanduser()
    damaged = [package for package in packages if not _is_cached(cache, package)]
    if damaged:
        _download(damaged, cache)
    return [_read(cache / _file_name(package), package, packages) for package in packages]


def unpack(tarball: bytes, package: dict[str, Any], directory: pathlib.Path) -> None:
    """Writes the files of a package that the export takes into a directory.

    Raises:
        UserError: the tarball has no such file.
    """
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        for name, target in package["files"].items():
            try:
                content = archive.extractfile(f"package/{name}")
            except KeyError:
                content = None
            if content is None:
                raise UserError(f"{_file_name(package)} has no {name}: npm_packages.json is wrong")
            path = directory / target
            path.parent.mkdir(parents=True, exist_ok=True)
            with content, path.open("wb") as file:
                shutil.copyfileobj(content, file)


def _download(packages, cache):
    """Downloads packages into the cache; each is there in full or not at all."""
    if shutil.which("npm") is None:
        raise UserError(
            f"npm, which downloads {' and '.join(map(_spec, packages))}, is not installed. On a "
            f"machine that has it, run\n{_command(packages)}\nand give --web-packages FOLDER"
        )
    try:
        with new_directory(cache / "download") as temporary:
            _run_npm(packages, temporary)
            for package in packages:
                name = _file_name(package)
                content = _read(temporary / name, package, packages)
                with replacing(cache / name, binary=True) as file:
                    file.write(content)
    except OSError as error:
        raise disk.failed(str(cache), error) from error


def _run_npm(packages, directory):
    """Lets npm write the tarballs of packages into a directory."""
    command = ["npm", "pack", "--loglevel=error", "--ignore-scripts", *map(_spec, packages)]
    try:
        with waiting("npm downloads the runtime of the page"):
            finished = subprocess.run(
                bound(command), cwd=directory, capture_output=True, text=True, timeout=PATIENCE
            )
        reason = finished.stderr.strip() or finished.stdout.strip()
    except subprocess.TimeoutExpired:
        reason = f"no answer within {PATIENCE:.0f} s"
    except OSError as error:
        reason = f"it cannot be started ({error.strerror or error})"
    missing = [p for p in packages if not (directory / _file_name(p)).is_file()]
    if missing:
        raise RunError(
            f"npm cannot download {_spec(missing[0])}: {' '.join(reason.split())[:LONGEST_REASON]}"
            f"\nOn a machine where it can, run {_command(packages)}, and give --web-packages FOLDER"
        )


def _read(path, package, packages):
    """Returns a tarball; raises `UserError` unless it is the package that is pinned."""
    content = path.read_bytes()
    if _digest(content) != package["integrity"]:
        raise UserError(
            f"{path} is not {_spec(package)} as it was published (its SHA-512 differs): delete it, "
            f"and run there\n{_command(packages)}"
        )
    return content


def _is_cached(cache, package):
    """Whether the cache has a package, undamaged."""
    path = cache / _file_name(package)
    return path.is_file() and _digest(path.read_bytes()) == package["integrity"]


def _digest(content):
    """Returns the digest of bytes, as npm writes it."""
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"


def _file_name(package):
    """Returns what `npm pack` calls the tarball of a package."""
    name = package["name"].removeprefix("@").replace("/", "-")
    return f"{name}-{package['version']}.tgz"


def _spec(package):
    return f"{package['name']}@{package['version']}"


def _command(packages):
    """Returns the command that downloads packages into the working directory."""
    return f"npm pack {' '.join(map(_spec, packages))}"
