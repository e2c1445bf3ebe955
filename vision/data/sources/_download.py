"""Files from the web, each with its known checksum, or placed by hand where there is no network."""

import dataclasses
import hashlib
import http.client
import os
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from vision.errors import UserError

_CONNECT_SECONDS = 5  # for one address of the host
# for all of them, with the look-up of its name, which takes no timeout of its own
_REACH_SECONDS = 10
_STALL_SECONDS = 60
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class WebFile:
    """A file on the web: its address, its size in bytes, its SHA-256 in hexadecimal."""

    url: str
    size: int
    sha256: str

    @property
    def name(self):
        return self.url.rsplit("/", 1)[1]


def fetch(files, folder):
    """Returns the paths of `files`, all of one host, in `folder`, after downloading those that are
    not there.

    A file is there whole or not at all: it gets its name only when it is complete and right.

    Raises:
        UserError: a host cannot be reached (within 10 s; the message says where to put the files by
            hand), a download breaks off, or a file is not the one expected.
    """
    folder = Path(folder)
    missing = [f for f in files if not (folder / f.name).exists()]
    for file in missing:
        by_hand = (
            f"Download {', '.join(f.name for f in missing)} from {file.url.removesuffix(file.name)} elsewhere, "
            f"put {'it' if len(missing) == 1 else 'them'} into {folder} and run again"
        )
        require_host(file.url, f"download {file.name}", by_hand)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _download(file, folder / file.name)
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"cannot download {file.url} to {folder}: {error}.\n{by_hand}"
            ) from error
    for file in files:
        if wrong := _wrong(file, folder / file.name):
            raise UserError(
                f"{folder / file.name} is not {file.url}: {wrong}.\nRemove it and run again"
            )
    return [folder / f.name for f in files]


def require_host(url, what_for, otherwise):
    """Raises UserError within 10 s if the host of `url` does not answer. Any answer will do;
    proxies are honored."""
    outcome = ["no answer"]

    def ask():
        try:
            urllib.request.urlopen(
                urllib.request.Request(url, method="HEAD"), timeout=_CONNECT_SECONDS
            ).close()
            outcome[0] = None
        except urllib.error.HTTPError:
            outcome[0] = None
        except (OSError, http.client.HTTPException) as error:
            outcome[0] = str(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_REACH_SECONDS)
    if outcome[0]:
        raise UserError(
            f"cannot reach {urllib.parse.urlsplit(url).netloc} to {what_for}: {outcome[0]}.\n{otherwise}"
        )


def _download(file, path):
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with (
            urllib.request.urlopen(file.url, timeout=_STALL_SECONDS) as response,
            part.open("wb") as out,
        ):
            done = 0
            while block := response.read(_BLOCK):
                out.write(block)
                done += len(block)
                _progress(file, done)
        if wrong := _wrong(file, part):
            raise OSError(f"what came is another file: {wrong}")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _progress(file, done):
    if sys.stderr.isatty():
        end = "\n" if done >= file.size else ""
        print(
            f"\rdownloading {file.name}: {done >> 20} of {file.size >> 20} MiB",
            end=end,
            file=sys.stderr,
            flush=True,
        )


def _wrong(file, path):
    """Returns why the file at `path` is not the one expected, or ""."""
    if path.stat().st_size != file.size:
        return f"it has {path.stat().st_size:,} bytes, not {file.size:,}"
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    return "" if digest == file.sha256 else f"its SHA-256 is {digest}, not {file.sha256}"
