"""Serves bundles: REST, gRPC and a page for people.

    python -m vision.serving --models models/                       # which holds MODEL/VERSION/, each a bundle
    python -m vision.serving --models models/ --host 0.0.0.0 --keys keys.txt --tls-certificate c.pem --tls-key k.pem
    python -m vision.serving --models models/ --settings serving.json

A flag goes before the file of settings, that before a default. It ends on SIGTERM or Ctrl-C, once what it has taken is
answered. Then try http://127.0.0.1:8080 in a browser, and its /docs.
"""

import asyncio
import contextlib
import functools
import logging
import os
import resource
import sys
import threading

from vision import cli
from vision.serving import LOADER, settings


def main(argv):
    found = settings.from_flags(argv, __doc__)
    settings.check(found)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("vision").setLevel(logging.INFO)
    from vision.serving.server import serve  # takes most of the time to start, which a wrong flag need not

    _raise_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(found, functools.partial(print, flush=True)))


def _raise_limit():
    """Lets the process have as many connections as the system allows; the usual limit is for programs of few files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _loop_factory():
    """Returns uvloop's where it is installed; it answers some more requests a second than asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _end(code):
    """Ends the process; at once where a version is being loaded, since a thread that is in ONNX Runtime then would be
    torn down in the middle of C++ and abort."""
    if any(thread.name == LOADER for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    try:
        cli.run(main)
    except SystemExit as end:
        _end(end.code if isinstance(end.code, int) else 1)
    _end(0)
