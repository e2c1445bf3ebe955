"""A file's digest, which tells whether it is the one that was written."""

import hashlib
import os


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
