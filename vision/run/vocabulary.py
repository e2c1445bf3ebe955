"""A run's tokenizer and columns, which every later stage uses as they were."""

import pathlib

from ml_collections import ConfigDict

from vision.data.columns import columns_of
from vision.data.fields import FieldEncoder
from vision.data.tokenizer import Tokenizer
from vision.models import fields_of
from vision.models.weights.pretrained import is_run
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


def run_encoder(workdir: pathlib.Path | str, config: ConfigDict) -> FieldEncoder | None:
    """Returns how a run directory encodes texts and columns; None if it does not, or not yet.

    A run that starts from another one has that one's tokenizer.

    Args:
        workdir: the run directory.
        config: the run's config.

    Raises:
        UserError: see `run_tokenizer`.
    """
    tokenizer = run_tokenizer(workdir, config.text)
    start = config.model.pretrained
    may_start = config.text.tokenizer and start and fields_of(config.model)
    if tokenizer is None and may_start and is_run(start):
        tokenizer = run_tokenizer(start, config.text)  # its words are those of the weights
    columns = columns_of(config.model.options)
    if tokenizer is None and not columns.names:
        return None
    return FieldEncoder(tokenizer, columns)


def write_tokenizer(workdir: pathlib.Path, tokenizer: Tokenizer | None) -> None:
    """Writes a tokenizer into a run directory that has none yet."""
    file = workdir / FILE
    if tokenizer is not None and not file.is_file():
        with replacing(file) as stream:
            stream.write(tokenizer.to_text())
