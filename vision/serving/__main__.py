"""Serves bundles: REST, gRPC and a web page.

    python -m vision.serving --models models/     # which holds MODEL/VERSION/, each a bundle
    python -m vision.serving --models models/ --host 0.0.0.0 --keys keys.txt \\
        --tls-certificate c.pem --tls-key k.pem
    python -m vision.serving --models models/ --settings serving.json

A flag overrides the settings file, which overrides the defaults. The server stops on SIGTERM or
Ctrl-C, once it has answered the requests in progress. Open http://127.0.0.1:8080 in a browser; the
API is at /docs.
"""

import asyncio
import contextlib
import functools
import logging
import os
import resource
import sys
import threading
import traceback
from collections.abc import Sequence

from vision import cli
from vision.serving import settings
from vision.serving.logs.stderr import Stderr, protect
from vision.support.extras import require, require_stage

PATIENCE = 2.0  # seconds, each, for stdout and stderr to be read at the end


def main(argv: Sequence[str]) -> None:
    server_settings = settings.from_flags(argv, __doc__ or "")
    settings.check(server_settings)
    require_stage("serving", "serve")
    if server_settings.prediction_log:
        require("--prediction-log", "serving", only=("pyarrow",))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("vision").setLevel(logging.INFO)
    # imported late: it takes most of the start-up time, which a wrong flag need not
    from vision.serving.server import serve

    _raise_file_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(server_settings, functools.partial(print, flush=True)))


def _raise_file_limit():
    """Allows as many connections as the system permits; the default limit suits programs with few
    files."""
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems allow less than they report
        resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))


def _loop_factory():
    """Returns uvloop's factory if it is installed, since it answers somewhat more requests a
    second."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _end(code: int, stderr: Stderr) -> None:
    """Ends the process once its output is written, or is not read in time.

    It then ends at once: an orderly exit waits for threads and tears them down where they are. A
    thread that is loading a version in ONNX Runtime's code, or is writing to a reader that hangs,
    would abort it or hold it up.
    """
    flush = threading.Thread(target=_flush, daemon=True)
    flush.start()
    flush.join(PATIENCE)
    stderr.drain(PATIENCE)
    os._exit(code)


def _flush():
    with contextlib.suppress(Exception):  # the reader is gone
        sys.stdout.flush()


def _run() -> int:
    """Runs the server, and returns the process's exit code."""
    try:
        cli.run(main)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception:  # a bug, which the interpreter would print only as it exits
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    stderr = protect()  # the event loop's messages must not wait for their reader
    _end(_run(), stderr)
