"""API keys: which clients may send requests, and how many a second."""

import dataclasses
import hashlib
import hmac
import os
import pathlib
import re
import time
from collections.abc import Mapping

from vision.errors import UserError
from vision.serving.errors import TooMany, Unauthorized
from vision.serving.settings import Settings

ENVIRONMENT = "env:"  # precedes the name of a variable that holds the lines of a key file


@dataclasses.dataclass
class Key:
    """An API key with its rate limit, a token bucket.

    Attributes:
        name: the name in the log.
        digest: SHA-256 of the key.
        rate: requests a second; 0 if there is no limit.
        tokens: requests left in the bucket, which holds one second's worth, but at least one.
        refilled: when the bucket was last refilled, by `time.monotonic`.
    """

    name: str
    digest: bytes
    rate: float
    tokens: float = 0.0
    refilled: float = 0.0

    def take(self) -> None:
        """Takes one request from the bucket; raises `TooMany` if it is empty."""
        if not self.rate:
            return
        now = time.monotonic()
        self.tokens = min(max(self.rate, 1.0), self.tokens + (now - self.refilled) * self.rate)
        self.refilled = now
        if self.tokens < 1:
            raise TooMany(
                f"this key is limited to {self.rate:g} requests a second",
                (1 - self.tokens) / self.rate,
            )
        self.tokens -= 1


class ApiKeys:
    """The API keys that the server accepts.

    Args:
        settings: the server's settings; `keys` names a file or an environment variable.

    Raises:
        UserError: the file or variable cannot be read, or a line is not "NAME KEY
            [REQUESTS_A_SECOND]".
    """

    def __init__(self, settings: Settings):
        self._keys = _read_keys(settings.keys) if settings.keys else []

    def check(self, text: str | None) -> str:
        """Returns the name of an API key; "" if the server requires none.

        All keys are compared, by their digests, so that the time this takes reveals nothing about
        which keys exist.

        Args:
            text: the key that the client sent; None if it sent none.

        Raises:
            Unauthorized: the key is missing or wrong.
            TooMany: the key has used up its rate.
        """
        if not self._keys:
            return ""
        digest = hashlib.sha256((text or "").encode("utf-8", "surrogateescape")).digest()
        matching_key = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                matching_key = key
        if matching_key is None:
            raise Unauthorized(
                "an API key is required: send 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'"
            )
        matching_key.take()
        return matching_key.name


def key_of(headers: Mapping[str, str]) -> str | None:
    """Returns the API key in a request's headers or metadata; None if there is none.

    Args:
        headers: values by lower-case name.
    """
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("x-api-key")


def _read_keys(path):
    """Returns the list of `Key` in a file, or in the environment variable of "env:NAME"."""
    keys = []
    for number, line in enumerate(_key_lines(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        rate = words[2] if len(words) == 3 else "0"
        if len(words) not in (2, 3) or not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", rate):
            raise UserError(f"--keys {path}: line {number} must be 'NAME KEY [REQUESTS_A_SECOND]'")
        name, text = words[:2]
        if not text.isascii():
            raise UserError(
                f"--keys {path}: line {number}: a key must be ASCII, because headers are"
            )
        digest = hashlib.sha256(text.encode()).digest()
        if any(name == key.name or digest == key.digest for key in keys):
            raise UserError(f"--keys {path}: line {number} repeats a name or a key")
        keys.append(Key(name, digest, float(rate), max(float(rate), 1.0), time.monotonic()))
    if not keys:
        raise UserError(
            f"--keys {path} contains no key: a line must be 'NAME KEY [REQUESTS_A_SECOND]'"
        )
    return keys


def _key_lines(path):
    if path.startswith(ENVIRONMENT):
        variable = path.removeprefix(ENVIRONMENT)
        if variable not in os.environ:
            raise UserError(f"--keys {path}: the environment has no variable {variable!r}")
        # popped, so that child processes do not inherit it
        return os.environ.pop(variable).splitlines()
    try:
        return pathlib.Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"--keys {path} cannot be read: {reason}") from error
