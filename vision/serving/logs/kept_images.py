"""Images that are kept for labeling: a random share of those that come, bounded and deleted by age.

DIRECTORY/_images/MODEL/CLASS/TIME-REQUEST-INDEX.jpg holds an image as it came, below the class that
the model gave it; pixels are kept as PNG. Used by one thread.
"""

import collections
import contextlib
import dataclasses
import os
import pathlib
import time
import urllib.parse

import cv2
import numpy as np

from vision.data.formats import format_of
from vision.reference.log_format import IMAGES

LONGEST = 80  # characters of a name in a path
SWEEP = 60.0  # seconds between looks for images that are too old
SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}


@dataclasses.dataclass(frozen=True)
class KeepRules:
    """Which images are kept.

    Attributes:
        share: of the images that come, in [0, 1], at random; 0 keeps none.
        per_class: images of each model and class, the latest.
        bytes: of all, the latest.
        seconds: age at which they are deleted.
    """

    share: float = 0.0
    per_class: int = 1000
    bytes: int = 2**30
    seconds: float = 30 * 86_400.0


class KeptImages:
    """Keeps images in the folder `_images` of a prediction log.

    Several servers may share the directory: each counts what it finds there at its start and what
    it writes, so their bounds add up until they restart.

    Args:
        directory: the prediction log's.
        rules: which images are kept.

    Attributes:
        failed: images that could not be written.
    """

    def __init__(self, directory: pathlib.Path, rules: KeepRules):
        self._root = directory / IMAGES
        self._rules = rules
        # {folder of a class: its files, the oldest first, as (time, bytes, path)}
        self._files: dict[pathlib.Path, collections.deque] = {}
        self._bytes = 0
        self._swept = 0.0
        self.failed = 0
        for file in sorted(self._root.glob("*/*/*"), key=lambda path: path.name):
            with contextlib.suppress(OSError):  # another server has just deleted it
                status = file.stat()
                self._enter(file, status.st_mtime, status.st_size)

    def keep(
        self, model: str, label: str, name: tuple[float, str, int], image: bytes | np.ndarray
    ) -> str | None:
        """Writes an image and deletes the oldest ones beyond the bounds.

        Args:
            model: the model's name.
            label: the predicted class.
            name: (seconds since the epoch, identifier of the request, index in the request).
            image: the file's bytes, or uint8 (H, W, 1 or 3).

        Returns:
            Its path below the folder; None if it cannot be written.
        """
        data, suffix = _encoded(image)
        seconds, request, index = name
        folder = self._root / _quoted(model) / _quoted(label)
        moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
        file = folder / f"{moment}.{int(seconds * 1e6) % 1_000_000:06}Z-{_quoted(request)}-{index}"
        file = file.with_name(file.name + suffix)
        hidden = file.with_name(f".{file.name[-LONGEST:]}.tmp")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            hidden.write_bytes(data)
            os.replace(hidden, file)
        except OSError:
            self.failed += 1
            with contextlib.suppress(OSError):
                hidden.unlink(missing_ok=True)
            return None
        self._enter(file, seconds, len(data))
        self._bound(folder)
        return file.relative_to(self._root).as_posix()

    def sweep(self) -> None:
        """Deletes the images that are too old, once a minute."""
        if time.monotonic() - self._swept < SWEEP:
            return
        self._swept = time.monotonic()
        oldest = time.time() - self._rules.seconds
        for folder, files in self._files.items():
            while files and files[0][0] < oldest:
                self._remove(folder)

    def _enter(self, file, seconds, size):
        self._files.setdefault(file.parent, collections.deque()).append((seconds, size, file))
        self._bytes += size

    def _bound(self, folder):
        while len(self._files[folder]) > self._rules.per_class:
            self._remove(folder)
        while self._bytes > self._rules.bytes:
            filled = [place for place, files in self._files.items() if files]
            self._remove(min(filled, key=lambda place: self._files[place][0][0]))

    def _remove(self, folder):
        _, size, file = self._files[folder].popleft()
        self._bytes -= size
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def _quoted(name):
    """Returns a name of the user's as one that no path is led astray by."""
    return urllib.parse.quote(name, safe=" ", errors="replace").replace(".", "%2E")[:LONGEST]


def _encoded(image):
    """Returns (the bytes of an image's file, its suffix)."""
    if isinstance(image, bytes):
        kind = format_of(image)
        return image, SUFFIXES.get(kind, f".{kind.lower()}" if kind.isalnum() else ".bin")
    pixels = image if image.shape[2] == 1 else image[..., ::-1]
    return cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes(), ".png"
