"""Every architecture as Core ML, interpreted: what JAX gives; or the layer that Core ML lacks."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.slow.test_export import OPTIONS
from tests.support.classifiers import ARCHITECTURES, classifier, images
from vision.errors import UserError
from vision.export import coreml
from vision.export.check import measure
from vision.export.program import served

REFUSED = {"swin": r"'\w+' \(.*swin.py:\d+, in WindowAttention"}
# of the probabilities, and of the embedding relative to its largest value
LARGEST_DIFFERENCE = {"float32": 1e-4, "float16": 0.01, "int8": 0.03}


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - REFUSED.keys()))
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


@pytest.mark.parametrize("name", REFUSED)
def test_the_layer_that_core_ml_lacks_is_named(name, tmp_path):
    with pytest.raises(UserError, match=f"^Core ML has no operation for JAX's {REFUSED[name]}"):
        coreml.write(served(classifier(name)), tmp_path / coreml.NAME)
    assert list(tmp_path.iterdir()) == []


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
