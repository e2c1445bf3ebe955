"""Through how many functions three things pass: two checkouts side by side.

    python -m scripts.hops                           # this checkout, about a minute
    python -m scripts.hops --before /tmp/before      # beside another one

batch   A batch, from the command line to the loss. Counts the functions that are entered while
        `vision.main` trains configs/resnet_folder.py:PHOTOS:smoke for one step on twelve generated
        photographs, decoded batch by batch, until that step is done: the command line is parsed,
        the data are opened, the train step is traced, compiled and run. What merely lies on the
        way, such as checks of the config, counts too.
value   The value of objective.label_smoothing, from the command line to the loss. Counts those
        functions of the same run that get hold of the value itself: while they run, one of their
        arguments or local variables is the number (a rare one), a text with it, or a sequence or
        mapping with one of these as a direct element. A function that only hands on the whole
        config, or an object that has it as an attribute, does not count.
jpeg    A JPEG sent by HTTP, from the socket to the answer. Counts the functions that are entered
        between the first byte of one request to `vision.serving` and 0.2 s after its answer; the
        bundle is a small one, loaded and warmed up before.

A function is one of the package `vision`, by its module and qualified name, in any thread of the
process; functions that it defines inside count on their own, lambdas and comprehensions do not.
Files are the files of these functions. Each walk is a process of its own with the checkout as its
PYTHONPATH, watched by `sys.setprofile`. Only these names must exist in both checkouts:
`vision.main.main`, `vision.serving.__main__.main` and `vision.training.log.RunLog.advance`, which
training calls when a step is done.
"""

import argparse
import http.client
import inspect
import json
import os
import pathlib
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any

import cv2
import numpy as np

REPOSITORY = pathlib.Path(__file__).parents[1]
BUNDLE = REPOSITORY / "tests" / "compat" / "fixtures" / "bundle.tar.gz"
SMOOTHING = 0.0123456789  # a number that nothing else is
STEP_IS_DONE = ("vision.training.log", "RunLog.advance")
FLAGS = (
    f"--config.objective.label_smoothing={SMOOTHING}",
    "--config.train.steps=1",
    "--config.data.image_size=32",
    "--config.data.resident_gib=0",
    "--config.parallel.devices=1",
    "--config.log.tensorboard=False",
    "--config.log.progress=False",
)
Function = tuple[str, str]  # module, qualified name
Event = tuple[Function, FrameType]


class Watch:
    """Collects functions of `vision` that all threads of this process enter.

    Args:
        counts: (function, frame), at each entry and end of a function: whether it is collected.
        is_on: whether anything is collected from the beginning.
    """

    def __init__(self, counts: Callable[[Function, FrameType], bool], is_on: bool = True):
        self.is_on = is_on
        self.functions: set[Function] = set()
        self._counts = counts
        self._names: dict[CodeType, Function | None] = {}

    def start(self) -> None:
        """Watches this thread and every one that starts later."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def end(self, file: pathlib.Path) -> None:
        """Writes {"functions", "files"} and ends the process at once, whatever its threads do."""
        self.is_on = False
        modules = {module for module, _ in self.functions}
        file.write_text(json.dumps({"functions": sorted(self.functions), "files": len(modules)}))
        os._exit(0)

    def _note(self, frame, event, _):
        if not self.is_on or event not in ("call", "return"):
            return
        code = frame.f_code
        if code not in self._names:
            self._names[code] = _name(frame)
        function = self._names[code]
        if function is not None and self._counts(function, frame):
            self.functions.add(function)


def _name(frame):
    """Returns a frame's `Function`; None if it is a module, a class body, a lambda, or foreign."""
    code = frame.f_code
    module = frame.f_globals.get("__name__", "")
    is_ours = module.startswith("vision.") and not code.co_filename.startswith("<")
    if is_ours and code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<"):
        return module, code.co_qualname
    return None


def watch_batch(directory: pathlib.Path) -> None:
    """Trains one step and writes the functions entered to DIRECTORY/batch.json."""

    def counts(function, _):
        if function == STEP_IS_DONE:
            watch.end(directory / "batch.json")
        return True

    watch = Watch(counts)
    _train(watch, directory)


def watch_value(directory: pathlib.Path) -> None:
    """Trains one step and writes the functions that hold the value to DIRECTORY/value.json."""

    def counts(function, frame):
        if function == STEP_IS_DONE:
            watch.end(directory / "value.json")
        return any(map(_has_value, frame.f_locals.values()))

    watch = Watch(counts)
    _train(watch, directory)


def _has_value(local):
    """Returns whether a local variable is the value, or directly contains it."""
    if isinstance(local, list | tuple):
        return any(map(_is_value, local))
    if isinstance(local, Mapping) or type(local).__name__ == "ConfigDict":
        return any(map(_is_value, local.values()))
    return _is_value(local)


def _is_value(item: Any) -> bool:
    if isinstance(item, str):
        return str(SMOOTHING) in item
    return isinstance(item, float) and item == SMOOTHING


def _train(watch, directory):
    for label in ("cat", "dog"):
        folder = directory / "photos" / label
        folder.mkdir(parents=True)
        for i in range(12):
            (folder / f"{i}.jpg").write_bytes(jpeg(i))
    config = f"configs/resnet_folder.py:{directory / 'photos'}:smoke"
    from vision import main

    watch.start()
    main.main([f"--config={config}", f"--workdir={directory / 'run'}", *FLAGS])


def watch_jpeg(directory: pathlib.Path) -> None:
    """Answers one request and writes the functions entered to DIRECTORY/jpeg.json."""
    with tarfile.open(BUNDLE) as archive:
        archive.extractall(directory, filter="data")
    (directory / "models" / "digits").mkdir(parents=True)
    (directory / "bundle").rename(directory / "models" / "digits" / "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    watch = Watch(lambda *_: True, is_on=False)
    client = threading.Thread(target=_ask, args=(port, watch, directory / "jpeg.json"))
    client.start()  # before the watch starts: the client itself is not watched
    from vision.serving import __main__ as server

    watch.start()
    models = f"--models={directory / 'models'}"
    # It looks for new versions once at the beginning and then not during the request.
    server.main([models, f"--http-port={port}", "--grpc-port=0", "--poll=3600", "--threads=1"])


def _ask(port, watch, file):
    """Sends a JPEG until the server answers and three times more; watches the last request."""
    try:
        while not _answers(port):
            time.sleep(0.1)
        for _ in range(2):
            _answers(port)
        time.sleep(0.5)
        watch.is_on = True
        if _answers(port):
            time.sleep(0.2)  # for the access log
            watch.end(file)
    finally:
        os._exit(1)


def _answers(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("POST", "/classify/digits", jpeg(0), {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        response.read()
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()
    return response.status == 200


def jpeg(seed: int) -> bytes:
    """Returns a generated photograph, 48 x 40 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


WALKS = {"batch": watch_batch, "value": watch_value, "jpeg": watch_jpeg}


def measure(checkout: pathlib.Path, walk: str) -> dict[str, Any]:
    """Returns {"functions": [[module, name]], "files": number} of a walk through a checkout.

    Raises:
        RuntimeError: the walk failed; with what it printed.
    """
    paths = {"PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-P", __file__, "--walk", walk, "--directory", directory]
        done = subprocess.run(
            command, cwd=checkout, env=os.environ | paths, capture_output=True, text=True
        )
        file = pathlib.Path(directory, f"{walk}.json")
        if not file.is_file():
            raise RuntimeError(f"{walk} in {checkout}: {done.stdout}{done.stderr}")
        return json.loads(file.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=pathlib.Path, help="another checkout, shown beside")
    parser.add_argument("--list", action="store_true", help="also print the functions")
    parser.add_argument("--walk", choices=WALKS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=pathlib.Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.walk:
        WALKS[flags.walk](flags.directory)
    checkouts = {"now": REPOSITORY}
    if flags.before:
        checkouts = {"before": flags.before.resolve()} | checkouts
    print(f"{'':10}", *(f"{name:>20}" for name in checkouts))
    print(f"{'':10}", *(f"{'functions':>12}{'files':>8}" for _ in checkouts))
    for walk in WALKS:
        columns = {name: measure(path, walk) for name, path in checkouts.items()}
        cells = [(len(column["functions"]), column["files"]) for column in columns.values()]
        print(f"{walk:10}", *(f"{functions:12}{files:8}" for functions, files in cells))
        if flags.list:
            for name, column in columns.items():
                print(*(f"  {name} {'.'.join(part)}" for part in column["functions"]), sep="\n")


if __name__ == "__main__":
    main()
