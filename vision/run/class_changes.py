"""What becomes of a run's classes when some are renamed, merged or split.

    --rename cat=Cat              another name
    --merge vehicle=car,truck     one class of several, in the place of the first
    --split car=sedan,van         several classes of one, in its place

All refer to the classes that the run has, and change them at once; each class takes part in one of
them at most. In a name, %2C stands for a comma, %3D for "=" and %25 for "%".
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vision.data.classes import RENAME, check_known, decode, encode, read_renaming, renaming
from vision.data.division import Division, Members
from vision.data.identity import texts
from vision.data.pipeline import UNLABELED
from vision.data.sources import SEPARATOR, compose, members, open_splits, parse
from vision.errors import UserError
from vision.run.previous import EMPTY

FORMS = {"rename": "OLD=NEW", "merge": "NEW=OLD,OLD,...", "split": "OLD=NEW,NEW,..."}


@dataclasses.dataclass(frozen=True)
class Change:
    """One of `FORMS`.

    Attributes:
        kind: "rename", "merge" or "split".
        old: names of classes of the run.
        new: names of classes that take their place.
    """

    kind: str
    old: tuple[str, ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        return f"{' + '.join(self.old)} -> {', '.join(self.new)}"


@dataclasses.dataclass(frozen=True)
class ClassChanges:
    """All changes of a run's classes.

    Attributes:
        old: the run's classes, in the order of its logits.
        new: the classes that they become, in their order.
        changes: what becomes what.
    """

    old: tuple[str, ...]
    new: tuple[str, ...]
    changes: tuple[Change, ...]

    @property
    def keeps_outputs(self) -> bool:
        """Whether classes only change their names."""
        return all(change.kind == "rename" for change in self.changes)

    def of_kind(self, kind: str) -> list[Change]:
        """Returns the changes of a kind."""
        return [change for change in self.changes if change.kind == kind]

    @property
    def names(self) -> dict[str, str]:
        """{old name: new name} of all classes that become a single one, changed or not."""
        names = {name: name for name in self.old}
        for change in self.changes:
            for old in change.old:
                if change.kind == "split":
                    del names[old]
                else:
                    names[old] = change.new[0]
        return names

    def outputs(self) -> list[tuple[int, int, float]]:
        """Returns (old class, new class, share of the old one's probability), by new class."""
        places = {name: i for i, name in enumerate(self.new)}
        parts = [(old, places[new], 1.0) for old, new in self._numbered_names()]
        for change in self.of_kind("split"):
            number = self.old.index(change.old[0])
            parts += [(number, places[new], 1 / len(change.new)) for new in change.new]
        return sorted(parts, key=lambda part: (part[1], part[0]))

    def _numbered_names(self):
        names = self.names
        return [(i, names[name]) for i, name in enumerate(self.old) if name in names]

    def counts(self, counts: Sequence[int]) -> list[int]:
        """Returns the images of each new class for those of each old one.

        A class that was split gives none: which of its images are of which new class is unknown.
        """
        totals = np.zeros(len(self.new), np.int64)
        for old, new, share in self.outputs():
            totals[new] += counts[old] if share == 1 else 0
        return totals.tolist()

    def source(self, spec: str) -> str:
        """Returns the name of a run's source with `?rename=`, so that it has the new classes.

        What the source calls a class that was split stays as it is. Of several sources, each is
        opened, and changes the classes that it has.

        Raises:
            UserError: one of several cannot be opened.
        """
        names = members(spec)
        if len(names) == 1:
            return self._renamed(spec, self.old)
        return SEPARATOR.join(self._renamed(name, _classes(name)) for name in names)

    def _renamed(self, spec: str, classes: Sequence[str]) -> str:
        """Returns the name of a source that joins no others, with its classes renamed."""
        kind, argument, options = parse(spec)
        names = {name: new for name, new in self.names.items() if name in classes}
        if spec.startswith(EMPTY):
            new_classes = dict.fromkeys(names.get(name, name) for name in classes)
            return compose(kind, ",".join(map(encode, new_classes)), {})
        pairs = read_renaming(options[RENAME], f"'{spec}'") if RENAME in options else {}
        merged = {name for change in self.of_kind("merge") for name in change.old}
        renamed = dict(pairs)
        for old, new in names.items():
            if old != new or old in merged:
                own_names = [own for own, name in pairs.items() if name == old] or [old]
                renamed |= dict.fromkeys(own_names, new)
        # A class that keeps its name is listed only if others get it too: `vision.data.classes`.
        uses = collections.Counter(renamed.values())
        pairs = {own: new for own, new in renamed.items() if own != new or uses[new] > 1}
        options = {name: value for name, value in options.items() if name != RENAME}
        return compose(kind, argument, options | ({RENAME: renaming(pairs)} if pairs else {}))

    def division(self, division: Division) -> Division:
        """Returns a run's division with the new names of its classes; split ones keep the old."""
        names = self.names

        def relabel(members):
            return Members(members.names, texts(names.get(text, text) for text in members.labels))

        return {
            split: members if split == UNLABELED else relabel(members)
            for split, members in division.items()
        }


def read_changes(classes: Sequence[str], flags: Mapping[str, Sequence[str]]) -> ClassChanges:
    """Reads what is to become of a run's classes.

    Args:
        classes: the run's classes.
        flags: {"rename", "merge" and "split": values of that flag}.

    Raises:
        UserError: nothing is to change; a value has another form; a class is unknown or named
            twice; or fewer than two classes, or two of one name, would be left.
    """
    changes = [_read(kind, text) for kind, values in flags.items() for text in values]
    if not changes:
        forms = ", ".join(f"--{kind} {form}" for kind, form in FORMS.items())
        raise UserError(f"nothing to change: give one or more of {forms}")
    first: dict[str, Change] = {}  # the change that a class takes part in
    for change in changes:
        check_known(change.old, classes, f"--{change.kind}")
        for name in change.old:
            if name in first:
                raise UserError(
                    f"--{change.kind}: the class {name!r} is named twice, but can change only "
                    "once: to change it again, run the command on the new run"
                )
            first[name] = change
    new: list[str] = []
    placed: set[Change] = set()
    for name in classes:
        change = first.get(name, Change("rename", (name,), (name,)))
        if change not in placed:  # at its first class
            new += change.new
        placed.add(change)
    _check_new(new, changes)
    return ClassChanges(tuple(classes), tuple(new), tuple(changes))


def _classes(spec):
    """Returns the classes of one of several sources."""
    return next(iter(open_splits(spec, fewest_classes=1).values())).classes


def _check_new(new, changes):
    """Raises `UserError` if the new classes are too few, or two of them have one name."""
    (repeated, count), *_ = collections.Counter(new).most_common(1)
    if count > 1:
        raise UserError(
            f"two classes would be called {repeated!r}: choose another name, or --merge them"
        )
    if len(new) < 2:
        raise UserError(f"only the class {new[0]!r} would be left, but a classifier needs two")
    for change in changes:
        taken = [other for other in changes if other is not change and change.old[0] in other.new]
        if change.kind == "split" and taken:
            raise UserError(
                f"--{taken[0].kind}: the data still use {change.old[0]!r} for the class that "
                "--split divides: choose another name"
            )


def _read(kind, text):
    """Returns the `Change` that the value of a flag describes."""
    left, *right = text.split("=")
    single = decode(left)
    names = tuple(decode(name) for name in right[0].split(",")) if len(right) == 1 else ("",)
    if not single or not all(names) or (kind == "rename" and len(names) > 1):
        raise UserError(
            f"--{kind} {text!r} must be {FORMS[kind]}; in a name, write %2C for a comma and %3D "
            'for "="'
        )
    if kind != "rename" and len(names) < 2:
        raise UserError(
            f"--{kind} {text!r} names a single class, but needs two or more: {FORMS[kind]}; "
            "to rename one class, use --rename"
        )
    if kind == "merge":
        return Change(kind, names, (single,))
    return Change(kind, (single,), names)
