"""The vocabulary of the schema: a key with its default, its range and its meaning; a section."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vision.errors import check_range


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a number may take.

    Attributes:
        text: completes "KEY must be ...", such as "at least 0".
        contains: returns whether a value is in the range, its limit aside.
        limit: largest value of an integer: beyond it, the value must be a mistake.
    """

    text: str
    contains: Callable[[Any], bool]
    limit: int | None = None


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of the schema.

    Attributes:
        default: value; None if the key is unset.
        meaning: one or two lines, with units, choices and papers.
        range: range of a number; None if any value of the default's type will do.
        type: type of the value, which `default` alone does not tell if it is None.
    """

    default: Any
    meaning: str
    range: Range | None
    type: type

    def initial(self) -> Any:
        """Returns the value that a new config starts with."""
        if self.type is ConfigDict:
            return ConfigDict()
        return placeholder(self.type) if self.default is None else self.default

    def check(self, name: str, value: Any) -> None:
        """Raises `UserError` if `value` is outside of the key's range; None is for unset keys."""
        if self.range is not None and value is not None:
            check_range(name, value, self.range.contains(value), self.range.text)
            limit = self.range.limit
            if limit is not None:
                check_range(name, value, value <= limit, f"at most {limit:,}")


@dataclasses.dataclass(frozen=True)
class Section:
    """A group of keys: what they have in common, and {name: key}."""

    meaning: str
    keys: dict[str, Key]


def key(default: str | bool, meaning: str) -> Key:
    """Declares a key for text or a switch. The code that uses a text knows its choices."""
    return Key(default, meaning, None, type(default))


def number(default: float | tuple[float, ...], allowed: Range, meaning: str) -> Key:
    """Declares a key for a number, or for a tuple of numbers."""
    return Key(default, meaning, allowed, type(default))


def unset(kind: type, meaning: str, allowed: Range | None = None) -> Key:
    """Declares a key of type `kind` that is None until a config sets it."""
    return Key(None, meaning, allowed, kind)


def options(meaning: str) -> Key:
    """Declares a group of keys with any names: those of a module that the schema cannot know."""
    return Key({}, meaning, None, ConfigDict)


def section(meaning: str, **keys: Key) -> Section:
    """Declares a group of keys."""
    return Section(meaning, keys)


def at_least(low: float) -> Range:
    """Returns the range [low, infinity)."""
    return Range(f"at least {low}", lambda value: value >= low)


def above(low: float) -> Range:
    """Returns the range (low, infinity)."""
    return Range(f"above {low}", lambda value: value > low)


def within(interval: str, unit: str = "") -> Range:
    """Returns the range of an interval as one writes it, such as "[0, 1)"."""
    low, high = map(float, interval[1:-1].split(","))

    def contains(value):
        above_low = value >= low if interval[0] == "[" else value > low
        below_high = value <= high if interval[-1] == "]" else value < high
        return above_low and below_high

    return Range(f"in {interval} {unit}".strip(), contains)


def between(low: int, high: int) -> Range:
    """Returns the range of the integers from `low` to `high`, both included."""
    return Range(f"at least {low}", lambda value: value >= low, high)


def each(allowed: Range) -> Range:
    """Returns the range of tuples of which every number is in a range."""
    return Range(f"numbers {allowed.text}", lambda values: all(map(allowed.contains, values)))


def or_empty(allowed: Range) -> Range:
    """Returns the range of tuples that also allows ()."""
    return Range(f"() or {allowed.text}", lambda value: not value or allowed.contains(value))


def _rises(pair):
    return len(pair) == 2 and 0 < pair[0] <= pair[1] < math.inf


def _rises_to_one(pair):
    return _rises(pair) and pair[1] <= 1


def _are_three_shares(shares):
    return len(shares) == 3 and min(shares) > 0 and abs(sum(shares) - 1) <= 1e-6


def _are_rising_shares(times):
    pairs = zip((-1, *times), times, strict=False)
    return all(a < b for a, b in pairs) and all(0 <= time <= 1 for time in times)


ANY = Range("any", lambda value: True)
SEED = between(-(2**63), 2**63 - 1)
BATCH = between(1, 2**20)
SIDE = between(0, 2**14)
COUNT = between(0, 10**6)
CHANNELS = Range("0, 1 or 3", lambda value: value in (0, 1, 3))
SHARE = within("[0, 1]")
DEPTH = Range("0 or in [8, 16]", lambda value: value == 0 or 8 <= value <= 16)
DECAY = within("[0, 1)")
POSITIVE_PAIR = Range("(low, high) with 0 < low <= high", _rises)
PAIR_OF_SHARES = Range("(low, high) with 0 < low <= high <= 1", _rises_to_one)
THREE_SHARES = Range("three shares above 0 that sum to 1 (train, val, test)", _are_three_shares)
RISING_SHARES = Range(
    "shares of the steps in [0, 1], each above the one before", _are_rising_shares
)
