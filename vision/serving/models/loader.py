"""Scans the models' directory and opens bundles in a thread, beside the event loop."""

import asyncio
import concurrent.futures
import os
import pathlib
import threading

from vision.bundle.directory import Bundle
from vision.errors import UserError, first_line
from vision.serving.models.loaded import open_warm
from vision.serving.models.scan import ModelFolder, scan
from vision.serving.settings import Settings


class Loader:
    """Runs one scan or load at a time, each in a daemon thread.

    The interpreter would wait at its exit for the threads of an executor, even if they hang.

    Args:
        settings: the server's settings.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        # A link is resolved anew by each scan: that is how releases are swapped.
        self._root = os.path.abspath(settings.models)
        self._lock = threading.Lock()

    async def scan(self) -> tuple[dict[str, ModelFolder], list[str]]:
        """Scans the directory; see `vision.serving.models.scan.scan`."""
        return await self._in_thread(scan, self._root)

    async def open(self, model: str, version: str) -> tuple[tuple[Bundle, Settings] | None, str]:
        """Returns ((bundle, settings) as `open_warm`, ""), or (None, why it cannot be loaded)."""
        folder = pathlib.Path(self._root, model, version)
        try:
            return await self._in_thread(open_warm, folder, self._settings), ""
        except UserError as error:
            return None, " ".join(str(error).split()).replace(self._root + os.sep, "")
        except OSError as error:
            file = "a file"
            if isinstance(error.filename, str):
                file = os.path.relpath(error.filename, self._root)
            return None, f"{file} cannot be read: {error.strerror}"
        except Exception as error:  # a bad model raises whatever its runtime likes
            return None, first_line(error)

    def _in_thread(self, function, *arguments):
        future = concurrent.futures.Future()

        def work():
            with self._lock:
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(function(*arguments))
                    except BaseException as error:
                        future.set_exception(error)

        threading.Thread(target=work, name="loader", daemon=True).start()
        return asyncio.wrap_future(future)
