"""Data sources: one file per kind, found by its name.

A new kind is a new file here with `open(argument, **options) -> {split: Source}`, which
`open_splits("KIND:ARGUMENT")` then finds. Its keyword arguments, strings with a default, are what
`KIND:ARGUMENT?option=value` may set. Files whose name starts with an underscore are not kinds.
Nothing here imports JAX, because Grain's workers import these files and must start quickly.
"""

import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from vision.data.classes import KEEP, reclass
from vision.data.classes import OPTIONS as CLASSES
from vision.data.findings import Finding
from vision.data.groups import set_groups
from vision.data.labels import requiring
from vision.data.permuted import OPTION as PERMUTE
from vision.data.permuted import permute
from vision.data.sources._several import join_parts
from vision.errors import UserError, check_choice
from vision.support.progress import waiting

SEPARATOR = " + "  # between the names of several sources that are one
GROUP = "group"  # an option of every kind: `vision.data.groups`, as are those of `CLASSES`
CHANGES = ("imbalance", "flip_labels", "seed")  # options of every kind: `vision.data.changes`


class Source(Protocol):
    """Labeled images with random access: Grain's protocol plus what the other stages need.

    A source can be pickled, because Grain sends it to its workers, and may be read from several
    threads at once. Optionally, `fields = {"text": (N, L) array}` holds further values of each
    image, known like the labels without decoding it; an objective gets them with the batch.
    A source with captions has `texts`, object (N,), see `vision.data.texts`.

    A source whose images have names of their own has `keys() -> N texts`: what each is called
    within the source, wherever that lies. By them it is divided, unless its attribute `named` is
    false, and a run knows its images again. `?group=` may name its `column_names()`, of which
    `column_values(name)` returns N values. A source of files has `bits`, which `set_bits` sets and
    `decode` takes.
    """

    classes: tuple[str, ...]  # the name of each label
    encoded: bool  # True if an image must be decoded from a file before use
    # what was odd when the source was opened; the same for all splits of one source
    findings: tuple[Finding, ...]

    @property
    def labels(self) -> np.ndarray:
        """(N,) int32, known without decoding any image."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def __getitem__(self, index: int) -> dict:
        """Returns {"image": uint8 (H, W, C), "label": int}.

        C is 1 or 3, and each image has its own size.

        Raises:
            UnreadableImage: the file is empty, truncated or not an image.
        """

    def name(self, index: int) -> str:
        """Returns the name by which a person finds the image: a file, or "mnist5k[17]"."""

    def file(self, index: int) -> bytes | None:
        """Returns the bytes of the image's file, or None if it has none, as for arrays and crops.

        Raises:
            UnreadableImage: the file is missing.
        """


Opened = dict[tuple, dict[str, Source]]  # sources that are open, by what they were opened with


def kinds() -> list[str]:
    """Returns the names of all kinds, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def parse(spec: str) -> tuple[str, str, dict[str, str]]:
    """Splits a source's name into (kind, argument, options).

    For example, "voc:photos?boxes=crop" is ("voc", "photos", {"boxes": "crop"}). Options follow the
    last question mark, as NAME=VALUE joined by "&". A question mark that no option follows belongs
    to the argument, since paths and patterns may contain one.

    A name that begins with no kind may be that of a folder, which then is "folder:" of it.
    """
    address, mark, query = spec.rpartition("?")
    if pattern := re.search(r"[?&]group=regex:", spec):  # which may contain question marks
        address, mark, query = spec[: pattern.end()].rpartition("?")
        query += spec[pattern.end() :]
    pairs = [option.split("=", 1) for option in query.split("&")]
    if not mark or not all(len(pair) == 2 and re.fullmatch(r"\w+", pair[0]) for pair in pairs):
        address = spec
        pairs = []
    kind, _, argument = address.partition(":")
    if _is_folder(address) and kind not in kinds():
        kind = "folder"
        argument = address
    if len({name for name, _ in pairs}) < len(pairs):
        raise UserError(f"'{spec}' sets an option twice")
    return kind, argument, dict(pairs)


def _is_folder(path: str) -> bool:
    return os.path.isdir(os.path.expanduser(path))


def members(spec: str) -> list[str]:
    """Returns the names of the sources that a name joins, "folder:photos + folder:more".

    A piece that is neither a kind's nor a folder belongs to the argument before it: a folder may be
    called "black + white".
    """
    names: list[str] = []
    for piece in spec.split(SEPARATOR):
        if names and _goes_on(names[-1], piece):
            names[-1] += SEPARATOR + piece
        else:
            names.append(piece)
    return names


def _goes_on(name: str, piece: str) -> bool:
    """Whether a piece after a " + " belongs to the name before it."""
    if piece.partition(":")[0].partition("?")[0] in kinds():
        return False
    _, argument, _ = parse(name + SEPARATOR + piece)
    return _is_folder(argument) or parse(piece)[0] not in kinds()


def compose(kind: str, argument: str, options: Mapping[str, str]) -> str:
    """Returns a source's name, the inverse of `parse`."""
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"{kind}:{argument}".removesuffix(":") + (f"?{query}" if query else "")


def is_same(spec: str, other: str) -> bool:
    """Whether two names are of the same source.

    A folder's path may be relative or absolute, and may end with a slash.
    """
    if spec == other:
        return True
    ours = members(spec)
    theirs = members(other)
    if len(ours) > 1:
        return len(ours) == len(theirs) and all(map(is_same, ours, theirs))
    kind, argument, options = parse(spec)
    other_kind, other_argument, other_options = parse(other)
    if not argument or not other_argument or (kind, options) != (other_kind, other_options):
        return False
    return os.path.realpath(argument) == os.path.realpath(other_argument)


def set_bits(source: Any, bits: int) -> None:
    """Sets how many bits of 16-bit images are significant, if a source decodes files; 0 for 16.

    A subset has the bits of its source, which decodes.
    """
    layer = source
    while layer is not None:
        if hasattr(layer, "bits"):
            layer.bits = bits
        layer = getattr(layer, "source", None)


def open_splits(
    spec: str, bits: int = 0, fewest_classes: int = 2, opened: Opened | None = None
) -> dict[str, Source]:
    """Opens the source that `spec` names, without applying any of `CHANGES`.

    Args:
        spec: "KIND", "KIND:ARGUMENT" or "KIND:ARGUMENT?OPTION=VALUE&...", such as "mnist5k",
            "folder:photos" or "voc:photos?boxes=crop". Several, joined by " + ", are one source, in
            which classes of the same name are the same.
        bits: significant bits of 16-bit images, `config.data.bits`.
        fewest_classes: how many classes must have images: two to learn from, one to be judged on,
            none if no labels are needed.
        opened: what calls with it have opened, which is not opened again; gets what is new. Calls
            with other options or bits have their own.

    Returns:
        {"all": source} if the source has no splits of its own, else a dict with some of "train",
        "val", "test".

    Raises:
        UserError: the kind or an option is unknown, or the argument cannot be opened.
    """
    names = members(spec)
    with waiting(f"reading {spec}"):
        if len(names) > 1:
            return _open_several(spec, names, bits, fewest_classes, opened)
        return _open_one(spec, bits, fewest_classes, {} if opened is None else opened)


def _open_one(spec: str, bits: int, fewest_classes: int, opened: Opened) -> dict[str, Source]:
    """Opens a source that joins no others.

    Args:
        spec: see `open_splits`.
        bits: see `open_splits`.
        fewest_classes: see `open_splits`.
        opened: what was opened before, which is not opened again; gets what is new.
    """
    kind, argument, options = parse(spec)
    if kind not in kinds():
        _refuse_kind(spec, kind)
    module = importlib.import_module(f"{__name__}.{kind}")
    parameters = inspect.signature(module.open).parameters.values()
    kind_options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for name in options:
        choices = (*kind_options, *CHANGES, GROUP, *CLASSES, PERMUTE)
        check_choice(f"the option of '{spec}'", name, choices)
    arguments = {name: value for name, value in options.items() if name in kind_options}
    if KEEP in options:  # needs labels, even if nobody else does
        fewest_classes = max(fewest_classes, 1)
    key = (kind, argument, *sorted(arguments.items()), options.get(GROUP), fewest_classes, bits)
    if key not in opened:
        with requiring(fewest_classes):
            opened[key] = module.open(argument, **arguments)
        if GROUP in options:
            set_groups(opened[key], options[GROUP], spec)
        for source in opened[key].values():
            set_bits(source, bits)
    parts = opened[key]
    if fewest_classes and options.keys() & set(CLASSES):
        parts = reclass(parts, options, spec, fewest_classes)
    return permute(parts, options[PERMUTE], spec) if PERMUTE in options else parts


def _refuse_kind(spec: str, kind: str) -> None:
    """Raises `UserError` for a name that is neither a folder's nor begins with a kind."""
    if os.path.isfile(spec):
        raise UserError(
            f"'{spec}' is a file: give its kind, such as csv:{spec}; the kinds are "
            f"{', '.join(kinds())}"
        )
    if os.sep in kind or kind.startswith("."):
        raise UserError(
            f"there is no folder '{spec}': a source is a folder with one folder of images "
            f"per class, or KIND:ARGUMENT, with one of {', '.join(kinds())}"
        )
    hint = ", as KIND or KIND:ARGUMENT"
    hint += "" if ":" in spec else f"; and there is no folder '{spec}'"
    check_choice("data.source", kind, kinds(), hint)


def _open_several(
    spec: str, names: list[str], bits: int, fewest: int, opened: Opened | None
) -> dict[str, Source]:
    """Opens several sources as one; a class may be in only one of them."""
    for name in names:
        changes = sorted({*parse(name)[2]} & {*CHANGES})
        if changes:
            raise UserError(
                f"'{spec}': {changes[0]}= works only with a single source: leave it out, or "
                "choose the images in a table (csv:)"
            )
        if any(is_same(name, other) for other in names if other is not name):
            raise UserError(f"'{spec}' names {name} twice")
    # Members that differ in their classes only, such as tasks of one folder, read it once.
    opened = {} if opened is None else opened
    parts = [_open_one(name, bits, min(fewest, 1), opened) for name in names]
    return dict(join_parts(spec, parts, fewest))
