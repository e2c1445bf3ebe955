"""Other classes for the images of any source: `?classes=` keeps some, `?rename=` renames them.

    folder:photos?classes=cat,dog                       only the images of these two
    folder:photos?rename=cat:Cat,dog:Dog                other names
    folder:photos?rename=car:vehicle,truck:vehicle      one class of two, in the place of the first
    folder:photos?rename=car:car,truck:car              as well, called like one of them

Both name the classes of the source itself: `?classes=` is applied first, and all names change at
once. In a name, write %2C for a comma, %3A for ":", %26 for "&", %3D for "=", %3F for "?" and %25
for "%". Nothing here imports JAX, because the loader's workers import this file.
"""

import collections
import difflib
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vision.data.findings import Finding
from vision.data.labels import require_two_classes, requiring
from vision.data.subset import Subset
from vision.errors import UserError, printable

KEEP = "classes"
RENAME = "rename"
OPTIONS = (KEEP, RENAME)
GONE = "classes named in ?classes= or ?rename= have no images"
MOST_NAMES = 10  # classes that a message lists


class Reclassed(Subset):
    """Some images of a source, with labels among other classes.

    Args:
        source: a `vision.data.sources.Source`.
        indices: (N,) integers, positions in `source`.
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        findings: what was odd, besides the source's own.
    """

    def __init__(
        self,
        source: Any,
        indices: np.ndarray,
        labels: np.ndarray,
        classes: Sequence[str],
        findings: Sequence[Finding] = (),
    ):
        super().__init__(source, indices)
        self.labels = np.asarray(labels, np.int32)
        self.classes = tuple(classes)
        self.findings = (*source.findings, *findings)

    def __getitem__(self, index: int) -> dict:
        return super().__getitem__(index) | {"label": int(self.labels[index])}


def encode(name: str) -> str:
    """Returns a class's name as `?classes=` and `?rename=` take it."""
    return re.sub("[%,:&=?]", lambda match: f"%{ord(match[0]):02X}", name)


def decode(text: str) -> str:
    """Returns the name that `encode` was given."""
    return urllib.parse.unquote(text)


def renaming(pairs: Mapping[str, str]) -> str:
    """Returns the value of `?rename=` for {name in the source: new name}."""
    return ",".join(f"{encode(old)}:{encode(new)}" for old, new in pairs.items())


def read_renaming(text: str, title: str) -> dict[str, str]:
    """Returns {name in the source: new name}, the inverse of `renaming`.

    Raises:
        UserError: it has another form, or gives a class two names.
    """
    pairs: dict[str, str] = {}
    for pair in text.split(","):
        old, *new = map(decode, pair.split(":"))
        if len(new) != 1 or not old or not new[0]:
            raise UserError(
                f"{title}: rename={printable(text, 100)} must be OLD:NEW,OLD:NEW,...; in a name, "
                "write %2C for a comma and %3A for a colon"
            )
        if old in pairs:
            raise UserError(f"{title}: rename gives the class '{old}' two names")
        pairs[old] = new[0]
    return pairs


def check_known(names: Sequence[str], classes: Sequence[str], title: str) -> None:
    """Raises `UserError` for the first name that is not a class's; it names the nearest one.

    Args:
        names: the names to check.
        classes: the classes that there are.
        title: what gives the names, for the message.
    """
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=1)
            nearest = f" (did you mean {near[0]!r}?)" if near else ""
            listed = ", ".join(printable(other, 100) for other in classes[:MOST_NAMES])
            more = len(classes) - MOST_NAMES
            listed += f" and {more:,} more" if more > 0 else ""
            raise UserError(f"{title}: there is no class {name!r}{nearest}; classes are {listed}")


def in_order(parts: Mapping[str, Any], first: Sequence[str]) -> dict[str, Any]:
    """Returns {part: source} with some classes first, if it has all of them in another order.

    Args:
        parts: {part: source}, which have the same classes.
        first: the classes that come first.
    """
    classes = next(iter(parts.values())).classes
    if tuple(classes[: len(first)]) == tuple(first) or set(first) - set(classes):
        return dict(parts)
    ordered = (*first, *(name for name in classes if name not in first))
    places = np.array([ordered.index(name) for name in classes])
    return {
        part: Reclassed(source, np.arange(len(source)), places[source.labels], ordered)
        for part, source in parts.items()
    }


def reclass(
    parts: Mapping[str, Any], options: Mapping[str, str], spec: str, fewest_classes: int
) -> dict[str, Any]:
    """Applies `?classes=` and `?rename=`; parts that have no images of the classes are left out.

    Args:
        parts: {part: source}, what the source's kind opened; at least one.
        options: the source's options.
        spec: the source's name, for messages.
        fewest_classes: how many classes must be left. If that is less than two, data are only
            looked at again, of which a class may be gone by now: it is a finding.

    Raises:
        UserError: a name is unknown or given twice, a new name is already another class's, or too
            few classes are left.
    """
    title = f"'{spec}'"
    classes = next(iter(parts.values())).classes
    kept = _kept(options.get(KEEP), classes, title)
    pairs = read_renaming(options[RENAME], title) if RENAME in options else {}
    own = set(classes)
    gone = [name for name in dict.fromkeys((*kept, *pairs)) if name not in own]
    if fewest_classes >= 2:
        check_known(gone, classes, title)
    findings = [Finding(GONE, name) for name in gone]
    _check_merges(own.intersection(kept), pairs, title)
    new_classes, numbers = _number(classes, set(kept), pairs)
    with requiring(fewest_classes):
        require_two_classes(spec, new_classes, findings)
    result = {}
    for part, source in parts.items():
        labels = numbers[source.labels]
        rows = np.flatnonzero(labels >= 0)
        if len(rows):
            result[part] = Reclassed(source, rows, labels[rows], new_classes, findings)
    if not result:
        raise UserError(f"{title} has no images of {', '.join(map(printable, new_classes))}")
    return result


def _number(classes, kept, pairs):
    """Returns (the new classes, the number among them of each old one, int32; -1 if left out)."""
    new_names = {name: pairs.get(name, name) for name in classes if name in kept}
    new_classes = tuple(dict.fromkeys(new_names.values()))
    places = {name: number for number, name in enumerate(new_classes)}
    numbers = [places[new_names[name]] if name in new_names else -1 for name in classes]
    return new_classes, np.array(numbers, np.int32)


def _kept(text, classes, title):
    """Returns the names of `?classes=`; all classes without it."""
    if text is None:
        return list(classes)
    names = [decode(name) for name in text.split(",")]
    (most_common, count), *_ = collections.Counter(names).most_common(1)
    if count > 1 or not all(names):
        what = f"names the class {most_common!r} twice" if all(names) else "has an empty name"
        raise UserError(f"{title}: classes={printable(text, 100)} {what}: write classes=A,B,C")
    return names


def _check_merges(kept, pairs, title):
    """Raises `UserError` if a new name is that of another class that keeps it.

    Classes become one only if all of them are listed.
    """
    for old, new in pairs.items():
        if old in kept and new in kept and new not in pairs:
            raise UserError(
                f"{title}: rename would give {old!r} the name of the class {new!r}: to merge them, "
                f"also write {encode(new)}:{encode(new)}; otherwise choose another name"
            )
