"""The flag --seeds of experiments."""

from vision.errors import UserError


def read_seeds(text: str) -> list[int]:
    """Returns the seeds in "0,1,2"; [] for "".

    Raises:
        UserError: it is anything else.
    """
    words = text.split(",") if text else []
    if not all(word.isdecimal() and word.isascii() for word in words):
        raise UserError(f"--seeds must be numbers such as 0,1,2, got {text!r}")
    return [int(word) for word in words]
