"""Serves bundles: REST, gRPC and a page for people.

    python -m vision.serving --models models/                       # which holds MODEL/VERSION/,
    each a bundle
    python -m vision.serving --models models/ --host 0.0.0.0 --keys keys.txt --tls-certificate c.pem
    --tls-key k.pem
    python -m vision.serving --models models/ --settings serving.json

A flag goes before the file of settings, that before a default. It ends on SIGTERM or Ctrl-C, once
what it has taken is answered. Then try http://127.0.0.1:8080 in a browser, and its /docs.
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

from vision import cli
from vision.serving import settings
from vision.serving.logs.stderr import protect

PATIENCE = 2.0  # seconds, of each, for stdout and stderr to be read at the end


def main(argv):
    found = settings.from_flags(argv, __doc__)
    settings.check(found)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("vision").setLevel(logging.INFO)
    # takes most of the time to start, which a wrong flag need not
    from vision.serving.server import serve

    _raise_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(found, functools.partial(print, flush=True)))


def _raise_limit():
    """Lets the process have as many connections as the system allows; the usual limit is for
    programs of few files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _loop_factory():
    """Returns uvloop's where it is installed; it answers some more requests a second than
    asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _end(code, stderr):
    """Ends the process once what it had to say is written, or is not read in time.

    It ends at once then: an orderly end waits for threads, and tears them down where they are. One
    that loads a version in ONNX Runtime's code, or writes to a reader that hangs, would abort it or
    hold it up.
    """
    flush = threading.Thread(target=_flush, daemon=True)
    flush.start()
    flush.join(PATIENCE)
    stderr.drain(PATIENCE)
    os._exit(code)


def _flush():
    with contextlib.suppress(Exception):  # its reader is gone
        sys.stdout.flush()


def _run():
    """Runs the server, and returns the process's exit code."""
    try:
        cli.run(main)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception:  # a fault of ours, which the interpreter would show only as it ends
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    stderr = protect()  # what the event loop has to say must not wait for its reader
    _end(_run(), stderr)
