"""A StableHLO file gives what the program gave, for any number of images, without this project."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.support.classifiers import classifier
from tests.support.programs import images, linear, program_of
from vision.errors import UserError
from vision.export import stablehlo
from vision.export.check import compare
from vision.export.program import served


@pytest.mark.parametrize("batch", [0, 3])
def test_it_gives_what_jax_gives(batch, tmp_path):
    cnn = served(classifier("cnn"))
    stablehlo.write(cnn, tmp_path / stablehlo.NAME, batch)
    assert compare(cnn, stablehlo.load(tmp_path / stablehlo.NAME), images(5, 32)) < 1e-5
    exported = jax.export.deserialize(bytearray((tmp_path / stablehlo.NAME).read_bytes()))
    assert exported.platforms == stablehlo.PLATFORMS
    assert str(exported.in_avals[0].shape[0]) == str(batch or "batch")


def test_it_needs_nothing_but_jax(tmp_path):
    """The example of the module's docstring, in a folder without `vision`."""
    given = program_of(linear)
    stablehlo.write(given, tmp_path / stablehlo.NAME)
    np.save(tmp_path / "images.npy", images(4, 8, 1))
    code = (
        "import sys, jax.export, numpy as np\n"
        "run = jax.export.deserialize(bytearray(open('model.stablehlo', 'rb').read())).call\n"
        "probabilities, embedding = run(np.load('images.npy'))\n"
        "np.save('probabilities.npy', probabilities)\n"
        "print(*(n for n in ('vision', 'flax') if n in sys.modules))"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "probabilities.npy"), given(images(4, 8, 1))[0], atol=1e-6
    )


def test_mistakes(tmp_path):
    (tmp_path / stablehlo.NAME).write_bytes(b"no program")
    with pytest.raises(UserError, match=r"model\.stablehlo cannot be loaded: export it again"):
        stablehlo.load(tmp_path / stablehlo.NAME)

    def branching(images):  # in Python, on the number of images
        return linear(images[::-1] if images.shape[0] > 2 else images)

    with pytest.raises(
        UserError, match="cannot be exported for any number of images: give --batch 1"
    ):
        stablehlo.write(program_of(branching), tmp_path / "other")
    stablehlo.write(program_of(branching), tmp_path / "other", batch=1)
    assert (tmp_path / "other").is_file()
