"""The texts in the code, by which a page is checked that repeats messages."""

import ast
import functools
import re

from tests.conftest import REPOSITORY

VALUES = re.compile(r"'[^']*'|`[^`]*`|\S*[/=]\S*|^error: ")
HOLE = "\0"  # where a value is printed
LEAST = 9  # letters that a text needs to be taken for a message


def templates(source: str) -> list[str]:
    """Returns every string of a module's code, with `HOLE` for each value that is formatted."""
    texts = []
    inner: set[int] = set()
    for node in ast.walk(ast.parse(source)):  # parents before their parts
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in node.values}
            texts.append("".join(map(_part, node.values)))
        elif isinstance(node, ast.Constant) and id(node) not in inner:
            texts += [node.value] if isinstance(node.value, str) else []
    return texts


def _part(node):
    return node.value if isinstance(node, ast.Constant) else HOLE


@functools.cache
def _texts():
    """Returns [parts] of each text of the package that may be a message, cut at the values."""
    every = {
        text.strip()
        for path in REPOSITORY.glob("vision/**/*.py")
        for text in templates(path.read_text())
        if len(re.sub(r"[\W_]", "", text)) >= LEAST
    }
    return [text.split(HOLE) for text in every]


def share_in_code(message: str) -> float:
    """Returns which share of a message's letters the code has as text.

    What stands in quotes, and words such as paths, do not count: they are values.
    """
    is_text = [False] * len(message)
    for spans in _matches(message):
        for start, end in spans:
            is_text[start:end] = [True] * (end - start)
    return _share(message, is_text)


def share_of_templates(message: str) -> float:
    """Returns which share of those letters one text of the code has, or two, one after the other.

    With what its values stand for: a message that mixes three of the code's texts is invented.
    """
    ends = [(spans[0][0], spans[-1][1]) for spans in _matches(message)]
    best = 0.0
    for start, end in ends:
        for later, last in [(end, end), *ends]:
            if later >= end:
                is_text = [start <= i < end or later <= i < last for i in range(len(message))]
                best = max(best, _share(message, is_text))
    return best


@functools.cache
def _matches(message):
    """Returns [[(start, end) of each part]] of every place where a text of the code stands.

    A value at the beginning or at the end of a text reaches as far as the message does.
    """
    matches = []
    for parts in _texts():
        if max(parts, key=len) not in message:  # few are, and patterns are slow to compile
            continue
        pattern = ".+?".join(f"({re.escape(part)})" for part in parts)
        pattern += "" if parts[-1] else "$"
        matches += [m.regs[1:] for m in re.finditer(pattern, message, re.DOTALL)]
    return matches


def _share(message, is_text):
    is_value = [False] * len(message)
    for match in VALUES.finditer(message):
        is_value[slice(*match.span())] = [True] * len(match[0])
    letters = [i for i, text in enumerate(message) if text.isalpha() and not is_value[i]]
    return sum(is_text[i] for i in letters) / max(len(letters), 1)
