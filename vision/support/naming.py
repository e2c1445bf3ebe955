"""Names that a user chooses by a regular expression."""

import re
from collections.abc import Iterable

from vision.errors import UserError


def matching(key: str, pattern: str, names: Iterable[str], what: str = "layer") -> set[str]:
    """Returns the names in which a pattern is found; all of them if it is "".

    Args:
        key: what sets the pattern, for messages.
        pattern: a regular expression.
        names: the names to choose from.
        what: what has these names, for messages.

    Raises:
        UserError: the pattern is not a regular expression, or is found in none of them.
    """
    names = list(names)
    try:
        chosen = {name for name in names if re.search(pattern, name)}
    except re.error as error:
        raise UserError(f"{key} = '{pattern}' is not a regular expression: {error}") from error
    if names and not chosen:
        raise UserError(
            f"{key} = '{pattern}' matches no {what}; there are {', '.join(names[:3])}, ..."
        )
    return chosen
