"""A sketch of an embedding: 16 numbers from which distances, and so drift, can still be seen."""

import functools
import hashlib

import numpy as np

SKETCH = "sign/16/1"
DIMENSIONS = 16


def sketch(embeddings: np.ndarray) -> np.ndarray:
    """Returns float16 (N, 16), a random projection of embeddings (N, D), the same for equal D.

    Distances between embeddings, and so drift, survive it on average, while a row takes 32 bytes
    instead of up to 8 KiB and reveals no image. It is linear. The matrix holds signs, taken from
    the bits of SHAKE-256: no random generator has to stay the same for files of different years to
    be comparable. Achlioptas 2003, "Database-friendly random projections: Johnson-Lindenstrauss
    with binary coins", theorem 1.1.
    """
    projected = np.asarray(embeddings, np.float32) @ _signs(embeddings.shape[1])
    largest = np.finfo(np.float16).max
    return np.clip(projected, -largest, largest).astype(np.float16)


@functools.lru_cache(maxsize=64)
def _signs(size):
    """Returns float32 (size, 16) of 1/4 and -1/4, so that squared lengths are kept on average."""
    data = hashlib.shake_256(f"{SKETCH}/{size}".encode()).digest(size * DIMENSIONS // 8)
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(size, DIMENSIONS)
    return (bits.astype(np.float32) * 2 - 1) / np.sqrt(DIMENSIONS).astype(np.float32)
