"""Tables of README.md that a script writes, between `<!-- NAME -->` and `<!-- end -->`."""

import pathlib
import re
from collections.abc import Sequence

from vision.errors import UserError
from vision.support.files import replacing


def fill(readme: pathlib.Path, lines: Sequence[str], name: str = "results") -> None:
    """Puts a table's lines in the place of those that are there.

    Raises:
        UserError: the file does not have the place exactly once.
    """
    table = "\n".join([f"<!-- {name} -->", *lines, "<!-- end -->"])
    pattern = rf"<!-- {name} -->\n.*?<!-- end -->"
    text, count = re.subn(pattern, lambda _: table, readme.read_text(), flags=re.DOTALL)
    if count != 1:
        raise UserError(f"{readme} must have one <!-- {name} --> and one <!-- end --> after it")
    with replacing(readme) as file:
        file.write(text)
