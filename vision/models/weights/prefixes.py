"""Finds a network's tensors among all that a checkpoint has: below which prefix, which copy of it.

Wrappers put prefixes before names ("module.", "_orig_mod.", "backbone.", in any order), and
trainers store other tensors beside the network: of losses, metrics, averages and teachers. No list
of prefixes can be complete, so every one that precedes enough names is tried.

If several copies fit equally well, the moving average (EMA, SWA) is read, which evaluates better;
otherwise the first that is not called a teacher.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vision.errors import shown

AVERAGE = re.compile(r"(^|[._])(\w*_?ema|swa|averaged?)(_\w*)?\.", re.IGNORECASE)
TEACHER = re.compile(r"(^|[._])(teacher|target|momentum|key|encoder_k)(_\w*)?\.", re.IGNORECASE)
# Names of what trainers store beside a network, without a prefix that would tell them apart.
BESIDE = re.compile(
    r"^(\w*criterion|\w*loss(_\w+)?|\w*metrics?|\w*accuracy|\w*_acc|\w*teacher|\w*ema"
    r"|(train|val|valid|test)_\w+)\."
)


@dataclasses.dataclass(frozen=True)
class Match:
    """How well the arrays below a prefix fit the model by one naming.

    Attributes:
        count: of the model's variables that are there.
        fits: how many of them have the size that the model's have.
        arrays: {name by that naming: array}.
    """

    prefix: str
    count: int
    fits: int
    scheme: str
    arrays: Mapping[str, np.ndarray]


def split(
    arrays: Mapping[str, np.ndarray], least: int
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields (prefix, {name without it: array}) for "" and each prefix of at least `least` names.

    Prefixes end with a dot.
    """
    counts: collections.Counter[str] = collections.Counter()
    for name in arrays:
        counts.update(name[: match.end()] for match in re.finditer(r"\.", name))
    yield "", dict(arrays)
    for prefix, count in counts.items():
        if count >= least:
            part = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            yield prefix, part


def choose(matches: Sequence[Match]) -> tuple[Match | None, list[Match]]:
    """Returns (best, others): the match to read, and the copies under other prefixes that fit."""
    if not matches:
        return None, []
    most = max((match.fits, match.count) for match in matches)
    equal = [match for match in matches if (match.fits, match.count) == most]
    best = min(equal, key=lambda match: _rank(match.prefix))
    others = {m.prefix: m for m in equal if m.prefix != best.prefix}
    return best, list(others.values())


def describe_choice(best: Match, others: Sequence[Match]) -> str:
    """Returns what was chosen, and why, for a line that is printed."""
    reason = {0: "the moving average", 1: "the first", 2: "a teacher"}[_rank(best.prefix)]
    names = ", ".join(shown(match.prefix) for match in others[:4])
    return (
        f"the file contains the network more than once: {shown(best.prefix)}, {reason}, is read, "
        f"not {names}. To use another, save it alone"
    )


def is_beside(name: str, array: np.ndarray) -> bool:
    """Returns whether an array without a place in the model is none of a network's parameters.

    Parameters are floats, and no scalars: other arrays are counts and states of metrics.
    """
    is_float = np.issubdtype(array.dtype, np.floating) or array.dtype.kind == "V"
    return not is_float or array.ndim == 0 or bool(BESIDE.match(name))


def _rank(prefix):
    if AVERAGE.search(prefix):
        return 0
    return 2 if TEACHER.search(prefix) else 1
