"""A server of the circle's models, and people who ask it and later say what was right."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping

from vision.errors import RunError
from vision.monitoring.log import open_log
from vision.serving.client import Client, ServerError

PATIENCE = 60.0  # seconds that the log may be behind
PAUSE = 0.02  # seconds between a person's questions
PEOPLE = 3


@contextlib.contextmanager
def serving(models: pathlib.Path, log: pathlib.Path) -> Iterator[str]:
    """Starts `python -m vision.serving`, which keeps all images, and yields its URL."""
    command = [sys.executable, "-m", "vision.serving", f"--models={models}", "--http-port=0"]
    command += ["--grpc-port=0", "--access-log=", f"--prediction-log={log}", "--keep-images=1"]
    command += ["--prediction-minutes=0.05", "--drift-window=0"]
    print("$", " ".join(["python", *command[1:]]), flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        address = re.search(r"at (http://\S+?)(,|\s|$)", line)
        if address is None:
            raise RunError(f"the server did not start: {line.strip()}")
        yield address[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def ask(url: str, model: str, images: Mapping[bytes, str]) -> float:
    """Sends image files to a server; returns the share of right answers."""
    with Client(url) as client:
        right = [client.classify(file, model).top[0][0] == label for file, label in images.items()]
    return sum(right) / len(right)


def wait_for_rows(log: pathlib.Path, count: int) -> None:
    """Waits until the server has written so many rows.

    Raises:
        RunError: it did not, within a minute.
    """
    deadline = time.monotonic() + PATIENCE
    rows = -1
    while rows < count:
        if time.monotonic() > deadline:
            raise RunError(f"{log} has {max(rows, 0):,} rows instead of {count:,}")
        time.sleep(1.0)
        if any(log.glob("*.parquet")):
            rows = sum(batch.num_rows for batch in open_log(log).batches(["id"]))


class People:
    """Ask a server without an end, and write the labels of its answers a little later.

    Args:
        url: the server's.
        model: name of the model.
        images: {an image file's bytes: its class}.
        labels: the folder to write CSV files of labels to.

    Attributes:
        answered: {version: answers}.
        failed: messages of requests without an answer.
    """

    def __init__(self, url: str, model: str, images: Mapping[bytes, str], labels: pathlib.Path):
        self.answered: dict[str, int] = {}
        self.failed: list[str] = []
        self._url = url
        self._model = model
        self._images = list(images.items())
        self._labels = labels
        self._rows: list[tuple[str, str]] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(PEOPLE)]
        self._threads.append(threading.Thread(target=self._label))

    def __enter__(self) -> "People":
        self._labels.mkdir(parents=True, exist_ok=True)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number):
        with Client(self._url) as client:
            while not self._stop.wait(PAUSE):
                file, label = self._images[number % len(self._images)]
                number += PEOPLE
                try:
                    result = client.classify(file, self._model, top_k=1)
                except ServerError as error:
                    self.failed.append(str(error))
                    continue
                with self._lock:
                    self.answered[result.version] = self.answered.get(result.version, 0) + 1
                    self._rows.append((result.id, label))

    def _label(self):
        while not self._stop.wait(1.0):
            with self._lock:
                rows, self._rows = self._rows, []
            if rows:
                lines = ["id,label", *(f"{name},{label}" for name, label in rows)]
                hidden = self._labels / ".part"
                hidden.write_text("\n".join(lines) + "\n")
                os.replace(hidden, self._labels / f"{time.time_ns()}.csv")


def wait_until_ready(url: str, model: str, version: str) -> None:
    """Waits until a server has loaded a version.

    Raises:
        RunError: it did not, within a minute.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # 404 before it is seen, 503 before it is loaded
            address = f"{url}/v2/models/{model}/versions/{version}/ready"
            with urllib.request.urlopen(address, timeout=PATIENCE):
                return
        time.sleep(0.5)
    raise RunError(f"version {version} of {model} is not ready: see the server's messages")
