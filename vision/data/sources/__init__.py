"""Where images come from: one file a kind, found by its name.

A new kind is a new file here with `open(argument, **options) -> {split: Source}`;
`open_splits("KIND:ARGUMENT")` then finds it. Its keyword arguments, strings with a default, are
what `KIND:ARGUMENT?option=value` may set. Files whose name starts with an underscore are no kinds.
Nothing here imports JAX: Grain's workers import these files, and have to start fast.
"""

import importlib
import inspect
import pkgutil
import re
from typing import Protocol

import numpy as np

from vision.data.findings import Finding
from vision.errors import UserError, check_choice

CHANGES = ("imbalance", "flip_labels", "seed")  # options of any kind: `vision.data.changes`


class Source(Protocol):
    """Labeled images with random access: Grain's protocol, and what the stages around training need
    to know.

    A source is picklable, for Grain sends it to its workers, and may be read from several threads
    at once. Optionally, `fields = {"text": (N, L) array}` holds further values of each image, known
    like the labels without decoding it; an objective gets them beside the images of a batch.
    """

    classes: tuple[str, ...]  # the name of each label
    labels: np.ndarray  # (N,) int32, known without decoding any image
    encoded: bool  # True where an image has to be decoded from a file before use
    # what was odd when it was opened; all splits of one source have the same
    findings: tuple[Finding, ...]

    def __len__(self) -> int:
        """Returns the number of images."""

    def __getitem__(self, index: int) -> dict:
        """Returns {"image": uint8 (H, W, C), "label": int} with C = 1 or 3, each image at its own
        size.

        Raises:
            UnreadableImage: the file is empty, cut short or no image.
        """

    def name(self, index: int) -> str:
        """Returns what a person finds the image by: a file, or "mnist5k[17]"."""

    def file(self, index: int) -> bytes | None:
        """Returns the bytes of the image's file; None where it is none of its own, as for arrays
        and crops.

        Raises:
            UnreadableImage: the file is missing.
        """


def kinds():
    """Returns the names of all kinds, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def parse(spec):
    """Takes a source's name apart: "voc:photos?boxes=crop" is ("voc", "photos", {"boxes": "crop"}).

    Options follow the last question mark, as NAME=VALUE joined by "&"; a question mark that no
    option follows belongs to the argument, for paths and patterns may hold one.
    """
    whole, mark, tail = spec.rpartition("?")
    pairs = [option.split("=", 1) for option in tail.split("&")]
    if not mark or not all(len(pair) == 2 and re.fullmatch(r"\w+", pair[0]) for pair in pairs):
        whole = spec
        pairs = []
    kind, _, argument = whole.partition(":")
    if len({name for name, _ in pairs}) < len(pairs):
        raise UserError(f"'{spec}' gives an option twice")
    return kind, argument, dict(pairs)


def open_splits(spec):
    """Opens the source that `spec` names, as it is: without what `CHANGES` ask for.

    Args:
        spec: "KIND", "KIND:ARGUMENT" or "KIND:ARGUMENT?OPTION=VALUE&...", such as "mnist5k",
            "folder:photos" or "voc:photos?boxes=crop".

    Returns:
        {"all": source} where the source has no splits of its own, else a dict with some of "train",
        "val", "test".

    Raises:
        UserError: the kind or an option is unknown, or it cannot open the argument.
    """
    kind, argument, options = parse(spec)
    check_choice("data.source", kind, kinds(), ", as KIND or KIND:ARGUMENT")
    module = importlib.import_module(f"{__name__}.{kind}")
    own = [
        p.name
        for p in inspect.signature(module.open).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    ]
    for name in options:
        check_choice(f"the option of '{spec}'", name, (*own, *CHANGES))
    return module.open(argument, **{name: value for name, value in options.items() if name in own})
