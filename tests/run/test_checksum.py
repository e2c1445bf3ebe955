"""The checksum of arrays: of every bit, the same on any devices, and without a program on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.run.checksum import checksum

DTYPES = ("bool", "int8", "uint8", "bfloat16", "float16", "int32", "float32", "float64")


def split(x):
    """Returns an array that all devices hold a piece of: their program sums it."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))


@pytest.mark.parametrize("dtype", DTYPES)
def test_checksum_changes_with_any_bit(float64, dtype):
    x = np.arange(24).reshape(4, 6) % 2
    original = checksum({"x": jnp.asarray(x, dtype)})
    for i in range(x.size):
        other = x.copy()
        other.flat[i] ^= 1
        assert checksum({"x": jnp.asarray(other, dtype)}) != original
    assert checksum({"x": jnp.asarray(x[::-1], dtype)}) == checksum(
        {"x": jnp.asarray(x[::-1].copy(), dtype)}
    )
    assert checksum({"x": jnp.asarray(np.roll(x, 1), dtype)}) != original


@pytest.mark.parametrize("dtype", DTYPES)
def test_checksum_is_the_same_on_one_cpu_and_on_several_devices(float64, dtype):
    """Of more words than a block has, and of words below and above half of their range."""
    x = np.random.default_rng(0).integers(-100, 100, (8, 3, 5000))
    array = jnp.asarray(x, dtype)
    assert checksum([array]) == checksum([split(array)])


def test_checksum_is_the_one_that_checkpoints_have(float64):
    """Numbers that a compiled program gave on one CPU."""
    x = np.arange(-99_000, 99_000).reshape(2, 3, 33_000)
    checksums = {
        "bool": 1549462506,
        "int8": 2312714815,
        "bfloat16": 1682903952,
        "float32": 2667622644,
        "float64": 216758390,
    }
    assert {dtype: checksum({"x": jnp.asarray(x, dtype)}) for dtype in checksums} == checksums
    assert checksum([jnp.float32(jnp.nan), jnp.zeros((0, 3))]) == 256423619


def test_checksum_takes_odd_leaves():
    assert checksum([jnp.float32(jnp.nan), jnp.zeros((0, 3))]) != checksum(
        [jnp.float32(jnp.inf), jnp.zeros((0, 3))]
    )


def test_one_cpu_compiles_nothing_for_it():
    compiled = []

    def count(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    arrays = [jnp.asarray(np.ones((3, side, 7), np.float32)) for side in (11, 13, 17)]
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        checksum(arrays)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert not compiled


def test_the_buffers_are_still_donated():
    """A checksum keeps no reference to them, so the next step needs no memory of its own."""
    update = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = update(jnp.zeros(100_000))
    place = x.unsafe_buffer_pointer()
    checksum([x])
    assert update(x).unsafe_buffer_pointer() == place
