"""The kinds of error that a user can cause and fix, and the checks that raise them."""

import difflib
import reprlib
import unicodedata
from collections.abc import Collection
from typing import Any

LONGEST_MESSAGE = 20_000  # characters
LONGEST_REASON = 300  # of a library's error that a message repeats
# They reverse the order of the text around them: what is shown is not what is there.
_REVERSING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class _Message(Exception):
    """An error whose text is printable, whatever names of files and classes are in it."""

    def __str__(self) -> str:
        return printable(super().__str__(), lines=True)


class UserError(_Message):
    """A mistake in what the user gave: a config, a path, a file.

    The message is one or two lines: what is wrong, where, and what to do. Commands print it without
    a traceback and exit with code 2.
    """


class RunError(_Message):
    """A run that cannot go on, for example because its loss is no longer finite.

    Commands print its message like that of a `UserError` and exit with code 1.
    """


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's text, or the name of its type if it has none.

    For exceptions of libraries, whose texts can fill pages; print ours in full.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def brief(error: BaseException) -> str:
    """Returns why something failed as a message can repeat it: one line, printable, short.

    Of an error of the system it is the system's words, such as "Permission denied", without the
    number and the file.
    """
    words = error.strerror if isinstance(error, OSError) else None
    return printable(words or first_line(error), LONGEST_REASON)


def printable(text: str, longest: int = LONGEST_MESSAGE, lines: bool = False) -> str:
    """Returns text from a file as it may be printed: nothing in it that a terminal would obey.

    Control characters, such as the escape that starts a terminal's commands, line separators and
    marks that reverse the direction become escapes, such as \\x1b.

    Args:
        text: any text, such as the name of a class or a file.
        longest: characters to keep.
        lines: whether line feeds and tabs stay.
    """
    text = text if len(text) <= longest else f"{text[:longest]} ..."
    if text.isprintable():
        return text
    return "".join(c if _is_printable(c, lines) else _escape(c) for c in text)


def _is_printable(character, lines):
    if character in "\n\t":
        return lines
    is_control = unicodedata.category(character) in ("Cc", "Zl", "Zp")
    return not is_control and character not in _REVERSING


def _escape(character):
    return character.encode("unicode_escape").decode()


def shown(value: Any) -> str:
    """Returns any value as a message can show it: short, on one line, printable."""
    try:
        return printable(reprlib.repr(value), 100)
    except ValueError:  # an integer with thousands of digits
        return "a very large number"


def check_flag(name: str, value: Any) -> None:
    """Raises `UserError` if a flag's value is the next flag, because its own was left out."""
    if isinstance(value, str) and value.startswith("--"):
        raise UserError(f"--{name} needs a value, but '{value}' follows")


def check_choice(key: str, value: Any, choices: Collection[str], hint: str = "") -> None:
    """Raises `UserError` unless `value` is among `choices`.

    The message names the nearest choice, lists them all, and ends with `hint`.
    """
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    nearest = f" (did you mean {near[0]!r}?)" if near else ""
    raise UserError(
        f"{key} = {value!r} is unknown{nearest}: choose from {', '.join(choices)}{hint}"
    )


def check_count(key: str, value: int, low: int, high: int) -> None:
    """Raises `UserError` unless an integer is from `low` to `high`."""
    check_range(key, value, value >= low, f"at least {low}")
    check_range(key, value, value <= high, f"at most {high:,}")


def check_range(key: str, value: Any, inside: bool, rule: str) -> None:
    """Raises `UserError` unless `inside` is true.

    Args:
        key: name of the key or flag, for the message.
        value: its value, for the message.
        inside: whether the value is allowed.
        rule: text that completes "KEY must be ...", such as "in [0, 1)" or "at least 0".
    """
    if not inside:
        text = shown(value) if isinstance(value, int) else str(value)
        raise UserError(f"{key} must be {rule}, got {printable(text, LONGEST_REASON)}")
