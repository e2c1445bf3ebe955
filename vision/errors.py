"""The kinds of error that a user can cause and fix, and the checks that raise them."""

import difflib
from collections.abc import Collection
from typing import Any


class UserError(Exception):
    """A mistake in what the user gave: a config, a path, a file.

    The message is one or two lines: what is wrong, where, and what to do. Commands print it without
    a traceback and exit with code 2.
    """


class RunError(Exception):
    """A run that cannot go on, for example because its loss is no longer finite.

    Commands print its message like that of a `UserError` and exit with code 1.
    """


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's text, or the name of its type if it has none.

    For exceptions of libraries, whose texts can fill pages; print ours in full.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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


def check_range(key: str, value: Any, inside: bool, rule: str) -> None:
    """Raises `UserError` unless `inside` is true.

    Args:
        key: name of the key or flag, for the message.
        value: its value, for the message.
        inside: whether the value is allowed.
        rule: text that completes "KEY must be ...", such as "in [0, 1)" or "at least 0".
    """
    if not inside:
        raise UserError(f"{key} must be {rule}, got {value}")
