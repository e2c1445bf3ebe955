"""Runs coremltools without its progress bars and warnings."""

import contextlib
import io
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Silences coremltools, also while it is imported: it lacks what only Apple's systems have."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # tqdm's bars
            yield
    finally:
        logger.setLevel(level)
