"""The tokenizer of a run's captions, which every later stage uses as it was."""

import pathlib

from ml_collections import ConfigDict

from vision.data.tokenizer import Tokenizer
from vision.support.files import replacing
from vision.support.reading import read_text

FILE = "tokenizer.json"


def run_tokenizer(workdir: pathlib.Path | str, c: ConfigDict) -> Tokenizer | None:
    """Returns the tokenizer of a run directory; None if it has none, or none yet.

    Args:
        workdir: the run directory.
        c: config.text.

    Raises:
        UserError: its file is damaged, or the library is not installed.
    """
    file = pathlib.Path(workdir, FILE)
    if not c.tokenizer or not file.is_file():
        return None
    return Tokenizer(read_text(file), c.context, str(file))


def write_tokenizer(workdir: pathlib.Path, tokenizer: Tokenizer | None) -> None:
    """Writes a tokenizer into a run directory that has none yet."""
    file = workdir / FILE
    if tokenizer is not None and not file.is_file():
        with replacing(file) as stream:
            stream.write(tokenizer.to_text())
