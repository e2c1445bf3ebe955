"""Files from the web, each with a known checksum, or placed by hand if there is no network."""

import dataclasses
import http.client
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from vision.errors import UserError
from vision.support.digest import sha256
from vision.support.progress import Progress

_CONNECT_SECONDS = 5  # for one address of the host
# for all addresses, including the name lookup, which takes no timeout of its own
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
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


def fetch(files: Sequence[WebFile], folder: Path | str) -> list[Path]:
    """Downloads the files that are missing from `folder`, and returns the paths of all of them.

    All `files` are on one host. A file is there completely or not at all: it gets its name only
    when it is complete and correct.

    Raises:
        UserError: a host cannot be reached within 10 s (the message tells where to put the files by
            hand), a download fails, or a file is not the expected one.
    """
    folder = Path(folder)
    missing = [f for f in files if not (folder / f.name).exists()]
    for file in missing:
        names = ", ".join(f.name for f in missing)
        by_hand = (
            f"Download {names} from {file.url.removesuffix(file.name)} elsewhere, "
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
        if reason := _mismatch(file, folder / file.name):
            raise UserError(
                f"{folder / file.name} is not {file.url}: {reason}.\nRemove it and run again"
            )
    return [folder / f.name for f in files]


def require_host(url: str, purpose: str, remedy: str) -> None:
    """Raises `UserError` within 10 s if the host of `url` does not answer.

    Any answer will do; proxies are honored.

    Args:
        url: the address to ask.
        purpose: what the host is needed for, such as "download x.gz", for the message.
        remedy: what to do otherwise, for the message.
    """
    failure = "no answer"

    def ask():
        nonlocal failure
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()
            failure = ""
        except urllib.error.HTTPError:
            failure = ""
        except (OSError, http.client.HTTPException) as error:
            failure = str(getattr(error, "reason", error)) or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_REACH_SECONDS)
    if failure:
        host = urllib.parse.urlsplit(url).netloc
        raise UserError(f"cannot reach {host} to {purpose}: {failure}.\n{remedy}")


def _download(file, path):
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    received = 0
    try:
        with (
            Progress(f"downloading {file.name}", file.size >> 20, "MiB") as work,
            urllib.request.urlopen(file.url, timeout=_STALL_SECONDS) as response,
            part.open("wb") as out,
        ):
            while block := response.read(_BLOCK):
                out.write(block)
                received += len(block)
                work.reach(received >> 20)
        if reason := _mismatch(file, part):
            raise OSError(f"received a different file: {reason}")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _mismatch(file, path):
    """Returns why the file at `path` is not the expected one; "" if it is."""
    if path.stat().st_size != file.size:
        return f"it has {path.stat().st_size:,} bytes, not {file.size:,}"
    digest = sha256(path)
    return "" if digest == file.sha256 else f"its SHA-256 is {digest}, not {file.sha256}"
