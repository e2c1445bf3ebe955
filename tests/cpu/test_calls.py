"""Python functions as custom calls: errors come back, and a program's end is waited for."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from vision import cpu
from vision.cpu import calls, choice, onednn
from vision.cpu.onednn import OneDnnError
from vision.errors import UserError

pytestmark = pytest.mark.long


def call(target, x):
    return jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


def test_a_failing_handler_ends_the_program_and_nothing_else():
    def fail(inputs, outputs):
        raise OneDnnError("primitive_execute of oneDNN returned status 5")

    calls.register("test_fail", fail)
    x = np.ones(3, np.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match="test_fail: OneDnnError: .* status 5"):
        jax.block_until_ready(jax.jit(lambda x: call("test_fail", x) + 1)(x))
    assert (jax.jit(lambda x: x + 1)(x) == 2).all()


def test_a_handler_gets_the_addresses():
    seen = []
    calls.register("test_addresses", lambda inputs, outputs: seen.append((inputs, outputs)))
    jax.block_until_ready(jax.jit(lambda x: call("test_addresses", x))(np.ones(3, np.float32)))
    ((inputs, outputs),) = seen
    assert len(inputs) == len(outputs) == 1 and inputs[0] and outputs[0] % 16 == 0


def test_the_version_is_jaxlibs():
    major, minor = calls.api_version()
    assert major == 0 and minor >= 1


def test_off_is_off():
    cpu.choose("off")
    try:
        assert not cpu.uses_onednn()
        assert cpu.describe() == ", without oneDNN (parallel.onednn = 'off')"
    finally:
        cpu.choose("auto")


def test_another_choice():
    with pytest.raises(UserError, match="parallel.onednn = 'on' is unknown"):
        cpu.choose("on")


def test_several_devices():
    cpu.choose("auto")
    assert not cpu.uses_onednn(devices=2)
    if cpu.uses_onednn():
        assert cpu.describe(2) == ", without oneDNN (several devices)"


def test_without_the_library(monkeypatch):
    monkeypatch.setattr("vision.cpu.onednn.WHEEL", "no-such-wheel")
    monkeypatch.setattr("vision.cpu.onednn.load", onednn.load.__wrapped__)
    monkeypatch.setattr(choice, "_why_not", choice._why_not.__wrapped__)
    cpu.choose("auto")
    try:
        assert cpu.describe() == ", without oneDNN (no-such-wheel is not installed)"
    finally:
        monkeypatch.undo()
        cpu.choose("auto")


UNFINISHED = """
import jax, jax.numpy as jnp
from flax import nnx
from vision import cpu, models
cpu.choose("auto")
def f(x, kernel):
    for _ in range(20):
        x = jnp.sin(nnx.Conv(16, 16, (3, 3), rngs=nnx.Rngs(0))(x)) + jnp.cos(x)
    return x
y = jax.jit(f)(jnp.ones((64, 32, 32, 16)), 1)
{then}
"""


@pytest.mark.parametrize("then", ["", "del y", "raise SystemExit(3)"])
def test_python_ends_while_a_program_runs(then):
    """JAX waits for it while it holds the interpreter that a convolution needs."""
    code = UNFINISHED.format(then=then)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == (3 if "3" in then else 0), ended.stderr
    assert ended.stderr == ""
