"""Captions of images: which of them can be used, and a source without those that cannot.

A source with captions has `texts`, object (N,), known without decoding an image.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vision.data.findings import Finding
from vision.data.identity import base_of, texts
from vision.data.sources import Source
from vision.data.splits import Subset
from vision.data.tables import not_text
from vision.errors import UserError, check_choice

EMPTY = "captions are empty, and their images are left out"
NOT_UTF8 = "captions are not UTF-8, and their images are left out"


def with_texts(
    parts: Mapping[str, Source],
    captions: Mapping[str, Sequence[Any]],
    title: str,
    empty: str = "",
) -> dict[str, Source]:
    """Gives sources their captions, and leaves out images that have none.

    Args:
        parts: {part: source}, opened and without captions.
        captions: {part: N values}, one for each image of the opened source below the part: a text,
            bytes in UTF-8, or None.
        title: the source's name, for messages.
        empty: the value of `?empty=`: "keep" keeps the images whose caption is empty.

    Returns:
        {part: source}, each with `texts`, and a finding for each image that was left out. A part
        without any caption, as some test splits are, is left out.

    Raises:
        UserError: no image has a caption, or `empty` is unknown.
    """
    check_choice(f"{title}, empty", empty, ("", "keep"))
    findings: list[Finding] = []
    usable = {}
    has_caption = False
    for part, source in parts.items():
        base, rows = base_of(source)
        base.texts, reasons = _read(captions[part])
        has_caption |= any(base.texts[rows])
        if empty:
            reasons = ["" if reason == EMPTY else reason for reason in reasons]
        for row in rows.tolist():
            if reasons[row]:
                findings.append(Finding(reasons[row], base.name(row), lost=True))
        usable[part] = base, rows, np.array([not reason for reason in reasons], bool)[rows]
    if not has_caption:
        count = sum(map(len, parts.values()))
        raise UserError(f"{title}: none of the {count:,} images has a caption in UTF-8")
    result: dict[str, Source] = {}
    for part, (base, rows, kept) in usable.items():
        base.findings = (*base.findings, *findings)
        if kept.any():
            has_all = len(rows) == len(base) and kept.all()
            result[part] = base if has_all else Subset(base, rows[kept])
    return result


def _read(values: Iterable[Any]) -> tuple[np.ndarray, list[str]]:
    """Returns (captions, object (N,), why each of them cannot be used, "" if it can)."""
    captions = []
    reasons = []
    for value in values:
        caption = value
        if isinstance(value, bytes):
            caption = value.decode("utf-8-sig", "surrogateescape")
        caption = "" if caption is None else str(caption).strip()
        broken = not_text([caption])
        captions.append("" if broken else caption)
        reasons.append(NOT_UTF8 if broken else "" if caption else EMPTY)
    return texts(captions), reasons


def texts_of(source: Any) -> np.ndarray | None:
    """Returns a source's captions, object (N,); None if it has none.

    Among joined sources, the images of those without captions have None; see `vision.data.beside`.
    """
    captions: np.ndarray | None = getattr(source, "texts", None)
    if captions is None or (len(captions) and all(caption is None for caption in captions)):
        return None
    return captions


def from_classes(source: Any, templates: Sequence[str], seed: int) -> np.ndarray:
    """Returns captions made from class names, object (N,).

    Args:
        source: a labeled source.
        templates: texts with a {} for the class's name; each image draws one.
        seed: seed of that draw.
    """
    chosen = np.random.RandomState(seed % 2**32).randint(0, len(templates), len(source))
    names = [fill(template, name) for template in templates for name in source.classes]
    numbers = chosen * len(source.classes) + source.labels
    return texts(names[number] for number in numbers.tolist())


def fill(template: str, name: str) -> str:
    """Returns a template with a class's name, words apart, in the place of its {}."""
    return template.replace("{}", name.replace("_", " ").strip())


def parse_templates(key: str, lines: Iterable[str]) -> tuple[str, ...]:
    """Returns the templates among some lines, of which empty ones do not count.

    Args:
        key: what gives them, for the message.
        lines: texts.

    Raises:
        UserError: there are none, or one does not have one {} in the place of a class's name.
    """
    templates = tuple(line.strip() for line in lines if line.strip())
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(
                f"{key}: each template must have one {{}} in place of the class name, "
                f"got {template!r:.80}"
            )
    if not templates:
        raise UserError(f"{key} has no template, such as 'a photo of a {{}}.'")
    return templates


def templates_of(text: str) -> tuple[str, ...]:
    """Returns the templates of `config.text.templates`; raises `UserError` for a wrong one."""
    return parse_templates("text.templates", text.split("|")) if text else ()
