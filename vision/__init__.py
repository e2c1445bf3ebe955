"""Image classification in JAX and Flax: from a folder of images to a served, monitored model."""

import signal
import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:
    # This is a program that still imports its modules: until `vision.cli` takes over, Ctrl-C ends
    # it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
