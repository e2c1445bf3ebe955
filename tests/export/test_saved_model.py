"""SavedModel as far as it goes without TensorFlow; the rest: tests/slow/test_saved_model.py."""

import sys

import jax
import numpy as np
import pytest
import scipy.special

from tests.support.programs import linear, program_of
from vision.errors import UserError
from vision.export import saved_model


def test_it_needs_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if it were not installed
    for call in (lambda path: saved_model.write(program_of(linear), path), saved_model.load):
        with pytest.raises(
            UserError, match=r"a SavedModel needs tensorflow: pip install -e '\.\[export,tfds\]'"
        ):
            call(tmp_path / saved_model.NAME)
    assert list(tmp_path.iterdir()) == []


def test_erf_is_spelled_out_and_comes_back():
    x = np.linspace(-6, 6, 10_001, dtype=np.float32)
    own = jax.lax.erf
    with saved_model._rational_erf():
        jaxpr = jax.make_jaxpr(lambda x: jax.lax.erf(x))(x)
        spelled = np.asarray(jax.lax.erf(x))
    assert "erf" not in str(jaxpr) and jax.lax.erf is own
    np.testing.assert_allclose(spelled, scipy.special.erf(x), atol=3e-7)
