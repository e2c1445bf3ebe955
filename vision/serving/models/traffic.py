"""Which version of a model answers a request: traffic.json, in the model's directory.

{"weights": {"1": 90, "2": 10}, "shadow": "3"}: of ten requests version 1 answers nine, version 2
one; version 3 answers each of them too, for the log alone. Both keys may be left out. Without
weights the highest version answers, other than the shadow.
"""

import functools
import hashlib
import json
import math
import random
import re
from typing import NamedTuple

from vision.errors import UserError

FILE = "traffic.json"
# of a model and of a version: nothing that a path could be
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_BYTES = 65_536


class Traffic(NamedTuple):
    """What traffic.json says.

    Attributes:
        weights: {version: share of the requests, to be divided by the sum}; {} = the highest has
            all, but the shadow.
        shadow: version that answers for the log alone; "" = none.
    """

    weights: dict = {}
    shadow: str = ""

    def choose(self, versions, key=""):
        """Returns which of the versions answers a request; None where there are none.

        Weights are by rendezvous hashing (Thaler and Ravishankar 1998) with weights: where a
        version's weight grows or it comes anew, keys go over to it alone, and where it goes only
        its own keys move.

        Args:
            versions: names of those that are loaded, the highest last.
            key: the same key gets the same version; "" = each request for itself.
        """
        names = self.serving(versions)
        if len(names) < 2:
            return names[0] if names else None
        if not key:
            return random.choices(names, [self.weights[name] for name in names])[0]
        return max(names, key=lambda name: self.weights[name] / -math.log(_uniform(name, key)))

    def serving(self, versions):
        """Returns which of the versions get requests: those with a weight, or the highest but for
        the shadow."""
        seen = [name for name in versions if name != self.shadow] or list(versions)
        return [name for name in versions if self.weights.get(name)] or seen[-1:]

    def main(self, versions):
        """Returns which of the versions has the most requests, the higher one of two with as many;
        None of none."""
        return max(
            reversed(self.serving(versions)),
            key=lambda name: self.weights.get(name, 0),
            default=None,
        )


def _uniform(name, key):
    """Returns a number in (0, 1) that looks random, the same for the same version and key."""
    digest = hashlib.blake2b(
        key.encode("utf-8", "surrogatepass"), digest_size=8, key=name.encode()
    ).digest()
    return ((int.from_bytes(digest) >> 12) + 0.5) / 2**52  # which floats can tell from 1


@functools.lru_cache(10_000)
def order(name):
    """Returns what versions are sorted by: 9, 9.1, 10 by value, after all other names, of which v10
    is after v9."""
    parts = tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name))
    return bool(re.fullmatch(r"\d+(\.\d+)*", name)), parts, name


def parse(data):
    """Returns the `Traffic` in the bytes of a traffic.json; raises `UserError` where they do not
    make one."""
    if len(data) > MAX_BYTES:
        raise UserError(f"it has more than {MAX_BYTES} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError("it is no JSON") from error
    if not isinstance(found, dict):
        raise UserError('it is no object, such as {"weights": {"1": 90, "2": 10}}')
    others = found.keys() - {"weights", "shadow"}
    if others:
        raise UserError(f"it holds {min(others)[:64]!r}: it may hold weights and shadow")
    weights = found.get("weights", {})
    shadow = found.get("shadow", "")
    if not isinstance(weights, dict) or not all(NAME.fullmatch(name) for name in weights):
        raise UserError(
            'its weights are to be a number for each version, such as {"1": 90, "2": 10}'
        )
    if weights and not (all(map(_is_weight, weights.values())) and any(weights.values())):
        raise UserError(
            "its weights are to be numbers from 0 to 1000000, and one of them more than 0"
        )
    if not isinstance(shadow, str) or (shadow and not NAME.fullmatch(shadow)):
        raise UserError('its shadow is to be the name of a version, such as "3"')
    return Traffic(weights, shadow)


def _is_weight(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e6
