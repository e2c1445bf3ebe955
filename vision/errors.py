"""The kinds of error that a user can cause and mend, and the checks that raise them."""

import difflib


class UserError(Exception):
    """A mistake in what the user gave: a config, a path, a file.

    The message is one or two lines: what is wrong, where, and what to do. Commands print it without
    a traceback and exit with code 2.
    """


class RunError(Exception):
    """A run that cannot go on, such as one whose loss is no longer finite. Printed like a
    `UserError`; exit code 1."""


def first_line(error):
    """Returns the first line of an exception's text, or the name of its type where it has none.

    For those of libraries, which may hold pages; ours say what they have to in full.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_flag(name, value):
    """Raises `UserError` where a flag's value is the flag that follows, since its own was left
    out."""
    if isinstance(value, str) and value.startswith("--"):
        raise UserError(f"--{name} needs a value, but '{value}' follows")


def check_choice(key, value, choices, hint=""):
    """Raises `UserError` unless `value` is among `choices`: names the nearest, lists them all, and
    ends with `hint`."""
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    nearest = f" (did you mean {near[0]!r}?)" if near else ""
    raise UserError(
        f"{key} = {value!r} is unknown{nearest}: choose from {', '.join(choices)}{hint}"
    )


def check_range(key, value, inside, rule):
    """Raises `UserError` unless `inside` is true: names key, value and rule, such as "it lies in
    [0, 1)"."""
    if not inside:
        raise UserError(f"{key} = {value}: {rule}")
