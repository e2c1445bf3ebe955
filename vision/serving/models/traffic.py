"""Chooses the version of a model that answers a request, by traffic.json in the model's directory.

{"weights": {"1": 90, "2": 10}, "shadow": "3"}: of ten requests version 1 answers nine and version 2
one; version 3 answers each of them too, for the log only. Both keys are optional. Without weights
the highest version answers, the shadow excepted.
"""

import functools
import hashlib
import json
import math
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from vision.errors import UserError

FILE = "traffic.json"
# of models and versions: nothing that a path could be
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_BYTES = 65_536


class Traffic(NamedTuple):
    """The contents of traffic.json.

    Attributes:
        weights: {version: its share of the requests, relative to the sum}; if empty, the highest
            version other than the shadow gets all of them.
        shadow: version that answers for the log only; "" if none does.
    """

    weights: dict[str, float] = {}
    shadow: str = ""

    def choose(self, versions: Sequence[str], key: str = "") -> str | None:
        """Returns the version that answers a request; None if there are no versions.

        Weights are by weighted rendezvous hashing (Thaler and Ravishankar 1998): if a version is
        added or its weight grows, keys move to that version only; if one is removed, only its own
        keys move.

        Args:
            versions: names of the loaded versions, the highest last.
            key: the same key gets the same version; "" draws anew for each request.
        """
        names = self.serving(versions)
        if len(names) < 2:
            return names[0] if names else None
        if not key:
            return random.choices(names, [self.weights[name] for name in names])[0]
        return max(names, key=lambda name: self.weights[name] / -math.log(_uniform(name, key)))

    def serving(self, versions: Sequence[str]) -> list[str]:
        """Returns the versions that get requests: those with a weight, or the highest non-shadow
        one."""
        visible = [name for name in versions if name != self.shadow] or list(versions)
        return [name for name in versions if self.weights.get(name)] or visible[-1:]

    def main(self, versions: Sequence[str]) -> str | None:
        """Returns the version with the most requests, the higher one in a tie; None if there is
        none."""
        return max(
            reversed(self.serving(versions)),
            key=lambda name: self.weights.get(name, 0),
            default=None,
        )


def _uniform(name, key):
    """Returns a pseudo-random number in (0, 1), the same for the same version and key."""
    key_bytes = key.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(key_bytes, digest_size=8, key=name.encode()).digest()
    return ((int.from_bytes(digest) >> 12) + 0.5) / 2**52  # a float can tell this from 1


@functools.lru_cache(10_000)
def order(name: str) -> tuple:
    """Returns the sort key of a version's name.

    Numbers such as 9, 9.1 and 10 go by value, after all other names; among those v10 comes after
    v9.
    """
    parts = tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name))
    return bool(re.fullmatch(r"\d+(\.\d+)*", name)), parts, name


def parse(data: bytes) -> Traffic:
    """Returns the `Traffic` in the bytes of a traffic.json; raises `UserError` if they are not
    valid."""
    if len(data) > MAX_BYTES:
        raise UserError(f"it has more than {MAX_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError("it is not valid JSON") from error
    if not isinstance(document, dict):
        raise UserError('it must be a JSON object, such as {"weights": {"1": 90, "2": 10}}')
    unknown = document.keys() - {"weights", "shadow"}
    if unknown:
        raise UserError(f"unknown key {min(unknown)[:64]!r}: the keys are weights and shadow")
    shadow = document.get("shadow", "")
    if not isinstance(shadow, str) or (shadow and not NAME.fullmatch(shadow)):
        raise UserError('its shadow must be the name of a version, such as "3"')
    return Traffic(_checked_weights(document.get("weights", {})), shadow)


def _checked_weights(weights):
    """Returns the weights; raises `UserError` if they are not valid."""
    if not isinstance(weights, dict) or not all(NAME.fullmatch(name) for name in weights):
        raise UserError('its weights must be a number for each version, such as {"1": 90, "2": 10}')
    if weights and not (all(map(_is_weight, weights.values())) and any(weights.values())):
        raise UserError("its weights must be numbers from 0 to 1000000, at least one above 0")
    return weights


def _is_weight(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e6
