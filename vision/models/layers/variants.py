"""Names of mobile networks, and of spaces of them, which a search chooses from.

A network is parts joined by "-", each some letters with numbers:

    r24                       resize the images to 24 x 24 pixels first; without it they stay
    c16s2                     the stem: channels, stride
    w40d3k5e4s2se1            a stage: width, depth (blocks), kernel, expansion (channels of the
                              depthwise convolution / channels of the block's input), stride of the
                              first block, squeeze-and-excitation
    h256                      channels of the last convolution, the length of the embedding

Without its letter, a depth is 1, a kernel 3, a stride 1, and squeeze-and-excitation 0, off. In a
space a letter has several numbers, "k3.5.7"; every combination is a network.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vision.errors import UserError, check_choice

Choice = dict[str, int]  # {axis: number}, as in `Space.axes`

RESOLUTION = "r"
STEM = "c"
HEAD = "h"
STAGE = ("w", "d", "k", "e", "s", "se")
DEFAULTS = {"d": 1, "k": 3, "s": 1, "se": 0}
LIMITS = {"r": (8, 1024), "c": (1, 1024), "w": (1, 4096), "d": (1, 32), "e": (1, 16)}
LIMITS |= {"h": (1, 8192)}
ALLOWED = {"k": (3, 5, 7), "s": (1, 2), "se": (0, 1)}
# What may differ between networks that share their weights.
ELASTIC = ("w", "d", "k", "e", "se")
KEY = "model.variant"


@dataclasses.dataclass(frozen=True)
class Space:
    """Networks that differ in some numbers.

    Attributes:
        axes: {axis: the numbers to choose from, ascending}, in the order of the name: "r", "c",
            "c.s", "0.w", "0.d", ... for the first stage, and "h".
    """

    axes: Mapping[str, tuple[int, ...]]

    @property
    def depth(self) -> int:
        """The number of stages."""
        return sum(axis.endswith(".w") for axis in self.axes)

    @property
    def size(self) -> int:
        """The number of networks."""
        return math.prod(map(len, self.axes.values()))

    def smallest(self) -> Choice:
        """Returns the network with the smallest number everywhere."""
        return {axis: numbers[0] for axis, numbers in self.axes.items()}

    def largest(self) -> Choice:
        """Returns the network with the largest number everywhere."""
        return {axis: numbers[-1] for axis, numbers in self.axes.items()}

    def free(self) -> list[str]:
        """Returns the axes with more than one number."""
        return [axis for axis, numbers in self.axes.items() if len(numbers) > 1]

    def sample(self, generator: np.random.Generator) -> Choice:
        """Returns a network, each number drawn uniformly."""
        return {axis: int(generator.choice(numbers)) for axis, numbers in self.axes.items()}

    def mutate(self, choice: Choice, generator: np.random.Generator) -> Choice:
        """Returns a network that differs in one number, drawn uniformly.

        Raises:
            UserError: the space has one network only.
        """
        if not self.free():
            raise UserError(f"'{spell(self.largest())}' is one network: give a space, as in k3.5.7")
        axis = str(generator.choice(self.free()))
        others = [number for number in self.axes[axis] if number != choice[axis]]
        return choice | {axis: int(generator.choice(others))}

    def check(self, choice: Choice) -> None:
        """Raises `UserError` unless a network is one of the space."""
        name = spell(choice)
        for axis in choice.keys() ^ self.axes.keys():
            raise UserError(
                f"'{name}' is not a network of this space: {_where(axis)} is in only one of the two"
            )
        for axis, number in choice.items():
            if number not in self.axes[axis]:
                choices = ", ".join(map(str, self.axes[axis]))
                raise UserError(
                    f"'{name}' is not a network of this space: {_where(axis)} is {number}, but "
                    f"the space has {choices}"
                )


def parse(text: str, key: str = KEY) -> Space:
    """Returns the `Space` that a name describes; that of a network has one number per axis.

    Args:
        text: the name.
        key: the key or flag that it comes from, for messages.

    Raises:
        UserError: it is not such a name; says which part, and what may stand there.
    """
    axes: dict[str, tuple[int, ...]] = {}
    stages = 0
    for part in text.split("-"):
        numbers = _letters(part, f"{key} = '{text}'")
        kind = next(iter(numbers))
        prefix = ""
        if kind in (RESOLUTION, HEAD):
            allowed: Sequence[str] = (kind,)
        elif kind == STEM:
            allowed = (STEM, "s")
        else:
            allowed = STAGE
            prefix = f"{stages}."
            stages += 1
        for letter in numbers:
            check_choice(f"{key} = '{text}': '{part}'", letter, allowed)
        for letter in allowed:
            axis = f"{prefix}{letter}" if kind != STEM or letter == STEM else f"{STEM}.{letter}"
            if axis in axes:
                raise UserError(f"{key} = '{text}' has {_where(axis)} twice")
            if letter not in numbers and letter not in DEFAULTS:
                raise UserError(f"{key} = '{text}': '{part}' has no {letter}, as in {letter}4")
            axes[axis] = numbers.get(letter, (DEFAULTS.get(letter, 0),))
    missing = [axis for axis in (STEM, "0.w", HEAD) if axis not in axes]
    if missing:
        raise UserError(
            f"{key} = '{text}' has no {_where(missing[0])}: it must have at least c16-w16e3-h64"
        )
    order = sorted(axes, key=_place)
    return Space({axis: axes[axis] for axis in order})


def choice_of(text: str, key: str = KEY) -> Choice:
    """Returns the network of a name; raises `UserError` if it names several."""
    space = parse(text, key)
    if space.size > 1:
        raise UserError(
            f"{key} = '{text}' is a space of {space.size:,} networks: give one number per letter"
        )
    return space.largest()


def spell(choice: Mapping[str, int | Sequence[int]]) -> str:
    """Returns the name of a network, or with several numbers a letter that of a space."""
    parts: dict[str, str] = {}
    for axis in sorted(choice, key=_place):
        numbers = choice[axis]
        numbers = (numbers,) if isinstance(numbers, int) else tuple(numbers)
        first, _, letter = axis.rpartition(".")
        if numbers == (DEFAULTS.get(letter),):
            continue
        part = first or letter
        parts[part] = parts.get(part, "") + letter + ".".join(map(str, numbers))
    return "-".join(parts.values())


def stages_of(choice: Choice) -> Iterator[dict[str, int]]:
    """Yields {letter: number} of each stage of a network."""
    stage = 0
    while f"{stage}.w" in choice:
        yield {letter: choice[f"{stage}.{letter}"] for letter in STAGE}
        stage += 1


def check_elastic(space: Space, key: str = KEY) -> None:
    """Raises `UserError` unless networks of a space can share their weights."""
    for axis in space.free():
        if axis.rpartition(".")[2] not in ELASTIC:
            raise UserError(
                f"{key}: networks that share weights can differ only in {', '.join(ELASTIC)}, not "
                f"in {_where(axis)}: give it one number"
            )
    if space.size == 1:
        raise UserError(f"{key} names one network, not a space: give several numbers, as in k3.5.7")
    for stage in range(space.depth):
        if min(space.axes[f"{stage}.e"]) == 1:
            # A block of expansion 1 lacks the convolution that the others have.
            raise UserError(f"{key}: {_where(f'{stage}.e')} must be at least 2 to share weights")


def _letters(part: str, where: str) -> dict[str, tuple[int, ...]]:
    """Returns {letter: numbers, ascending} of a part, in its order."""
    pairs = re.findall(r"([a-z]+)(\d+(?:\.\d+)*)", part)
    if not pairs or "".join(letter + numbers for letter, numbers in pairs) != part:
        raise UserError(f"{where}: '{part}' must be letters with numbers, as in w16d2k3e4")
    letters = {}
    for letter, text in pairs:
        if letter in letters:
            raise UserError(f"{where}: '{part}' has {letter} twice")
        numbers = tuple(sorted({int(number) for number in text.split(".")}))
        _check_numbers(letter, numbers, f"{where}: {letter} in '{part}'")
        letters[letter] = numbers
    return letters


def _check_numbers(letter: str, numbers: Sequence[int], where: str) -> None:
    if letter in ALLOWED:
        for number in numbers:
            check_choice(where, str(number), tuple(map(str, ALLOWED[letter])))
    low, high = LIMITS.get(letter, (0, math.inf))
    if not low <= numbers[0] <= numbers[-1] <= high:
        raise UserError(f"{where} must be from {low} to {high}, got {numbers[0]} to {numbers[-1]}")


def _place(axis: str) -> tuple[int, int]:
    """Returns what axes are sorted by: their order in a name."""
    first, _, letter = axis.rpartition(".")
    if axis == RESOLUTION:
        return -2, 0
    if STEM in (axis, first):
        return -1, int(bool(first))
    if axis == HEAD:
        return 1_000_000, 0
    return int(first), STAGE.index(letter)


def _where(axis: str) -> str:
    """Returns what a message calls an axis."""
    first, _, letter = axis.rpartition(".")
    if first.isdecimal():
        return f"{letter} of stage {int(first) + 1}"
    return f"s of the stem {STEM}" if first else letter
