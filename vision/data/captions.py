"""The captions of a run's splits as numbers: what an objective gets as the field "text"."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vision.data.findings import Finding
from vision.data.sources import Source
from vision.data.splits import Subset
from vision.data.texts import from_classes, templates_of, texts_of
from vision.data.tokenizer import BPE, PAD, Tokenizer, learn, read
from vision.errors import UserError

FIELD = "text"
TRAIN = "train"
WITHOUT = ("unlabeled", "memory")  # splits whose images need no captions


class Captioned(NamedTuple):
    """{split: source with the field}, its tokenizer, and findings about captions."""

    splits: dict[str, Source]
    tokenizer: Tokenizer
    findings: tuple[Finding, ...]


def published(c: ConfigDict) -> Tokenizer | None:
    """Returns the vocabulary that `config.text` names; None if it is yet to be learned."""
    return read(c.tokenizer, c.context) if c.tokenizer not in ("", BPE) else None


def tokenize(
    c: ConfigDict, splits: Mapping[str, Source], seed: int, tokenizer: Tokenizer | None
) -> Captioned:
    """Gives splits the field "text": token ids, int32 (N, L), padded with 0.

    A source without captions gets those that `config.text.templates` make from its class names,
    or, if it is joined to one with captions and there are no templates, empty ones. Unlabeled
    images without captions get none.

    Args:
        c: config.text.
        splits: {name: source}.
        seed: seed of the draw of templates.
        tokenizer: the run's; None learns a vocabulary from the captions of the training split.

    Raises:
        UserError: images to learn from have no captions, a source has a field "text" already, or a
            package is missing.
    """
    texts = {name: _captions(c, name, source, seed) for name, source in splits.items()}
    if tokenizer is None:
        tokenizer = published(c) or learn(list(texts[TRAIN]), c.vocabulary, c.context)
    captioned: dict[int, Source] = {}  # {id of a source: it with its field}: two may be the same
    findings = []
    kind = f"captions are longer than text.context = {c.context} tokens and are cut off"
    for name, source in splits.items():
        if id(source) in captioned or texts[name] is None:
            continue
        ids, is_cut = encode(tokenizer, texts[name])
        subset = Subset(source, np.arange(len(source)))
        subset.fields[FIELD] = ids
        captioned[id(source)] = subset
        findings += [Finding(kind, source.name(i)) for i in np.flatnonzero(is_cut).tolist()]
    result = {name: captioned.get(id(source), source) for name, source in splits.items()}
    return Captioned(result, tokenizer, tuple(findings))


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what `Tokenizer.encode` does, but a missing text, "", is padding alone."""
    ids, is_cut = tokenizer.encode(texts)
    ids[[not text.strip() for text in texts]] = PAD
    return ids, is_cut


def _captions(c, name, source, seed):
    """Returns the captions of a split, object (N,); None if it needs none and has none."""
    if FIELD in getattr(source, "fields", {}):
        raise UserError(
            f"the source of {name} already has a field '{FIELD}': rename it, or set "
            'text.tokenizer to ""'
        )
    if texts_of(source) is None and name in WITHOUT:
        return None
    return captions_of(c, name, source, seed)


def captions_of(c: ConfigDict, name: str, source: Source, seed: int) -> np.ndarray:
    """Returns a split's captions, its own or made from class names, object (N,).

    An image of a joined source without captions has "" if there are no templates.

    Args:
        c: config.text.
        name: of the split, for messages.
        source: the split.
        seed: seed of the draw of templates.

    Raises:
        UserError: it has none, and there are no templates.
    """
    texts = texts_of(source)
    templates = templates_of(c.templates)
    if texts is None and not templates:
        raise UserError(
            f"the images of {name} have no captions: name a column of the source, such as "
            "csv:FILE?text=COLUMN, or set text.templates to make them from class names"
        )
    if texts is None:
        return from_classes(source, templates, seed)
    lacks = np.array([text is None for text in texts], bool)
    if not lacks.any():
        return texts
    return np.where(lacks, from_classes(source, templates, seed) if templates else "", texts)
