"""Every architecture as Core ML, interpreted: what JAX gives."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.slow.test_export import OPTIONS
from tests.support.classifiers import ARCHITECTURES, classifier, images
from vision.export import coreml
from vision.export.check import measure
from vision.export.program import served

# of the probabilities, and of the embedding relative to its largest value
LARGEST_DIFFERENCE = {"float32": 1e-4, "float16": 0.01, "int8": 0.03}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name, tmp_path):
    check(classifier(name), LARGEST_DIFFERENCE, tmp_path)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_options(name, options, tmp_path):
    check(classifier(name, **options), ("float32",), tmp_path)


def check(model, precisions, folder):
    """Compares a classifier's packages with JAX."""
    program = served(model)
    for precision in precisions:
        path = folder / precision / coreml.NAME
        path.parent.mkdir()
        coreml.write(program, path, precision=precision)
        result = measure(program, coreml.load(path), images(model, 5))
        assert result["largest_difference"] < LARGEST_DIFFERENCE[precision], precision


def test_the_libraries_print_nothing(tmp_path):
    code = (
        "import sys\nfrom tests.support.programs import linear, program_of\n"
        "from vision.export import coreml\n"
        "coreml.write(program_of(linear), sys.argv[1])\ncoreml.load(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / coreml.NAME)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
