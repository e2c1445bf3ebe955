"""Mutated files of every parser: one message or none, never an exception of a library.

`python -m experiments.reliability.fuzz` does the same with thousands of mutations for each parser,
and limits of time and memory.
"""

import os
import random

import pytest

from experiments.reliability.fuzz import try_reading
from experiments.reliability.parsers import parsers
from tests.support.mutations import mutate

MUTATIONS = 12  # for each parser


@pytest.mark.parametrize("name", parsers())
@pytest.mark.filterwarnings("ignore")  # Pillow's, about damaged files
def test_a_mutated_file_is_read_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "TFDS_DATA_DIR", str(tmp_path))
    parser = parsers()[name]
    file, read = parser.prepare(tmp_path)
    valid = file.read_bytes()
    assert try_reading(read) == ("accepted", "")
    for index in range(MUTATIONS):
        file.unlink(missing_ok=True)  # a library may have mapped it into memory
        file.write_bytes(mutate(valid, parser.form, random.Random(f"test {name} {index}")))
        outcome, text = try_reading(read)
        assert outcome in ("accepted", "refused"), text
