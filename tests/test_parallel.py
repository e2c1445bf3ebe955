"""The mesh and the placement of arrays on it, on eight fake devices."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vision import parallel
from vision.errors import UserError


def test_mesh_takes_all_devices_or_the_first():
    assert parallel.make_mesh().size == parallel.make_mesh(0).size == 8
    assert list(parallel.make_mesh(3).devices.flat) == jax.devices()[:3]
    assert parallel.describe(parallel.make_mesh(4)) == "4 x cpu"
    with pytest.raises(UserError, match="parallel.devices = 9, but there are 8 cpu devices"):
        parallel.make_mesh(9)


@pytest.mark.parametrize(
    "batch_size, accumulate, message",
    [
        (12, 1, "12 does not divide over 8 devices: 16 does"),
        (3, 1, "8 does"),
        (24, 2, "2 accumulated parts: 32 does"),
    ],
)
def test_what_does_not_divide_names_what_does(batch_size, accumulate, message):
    mesh = parallel.make_mesh(8)
    with pytest.raises(UserError, match=f"^train.batch_size = .*{message}"):
        parallel.check_divisible("train.batch_size", batch_size, mesh, accumulate)
    nearest = int(message.split()[-2])
    parallel.check_divisible("train.batch_size", nearest, mesh, accumulate)


def test_a_batch_is_divided_in_order():
    mesh = parallel.make_mesh(4)
    batch = {"image": np.arange(24).reshape(8, 3), "label": np.arange(8)}
    placed = parallel.put_batch(batch, mesh)
    for name, array in placed.items():
        np.testing.assert_array_equal(parallel.fetch(array), batch[name])
        assert array.sharding.is_equivalent_to(parallel.batch_sharding(mesh), array.ndim)
        rows = {shard.device: np.asarray(shard.data) for shard in array.addressable_shards}
        for i, device in enumerate(mesh.devices.flat):
            np.testing.assert_array_equal(rows[device], batch[name][2 * i : 2 * i + 2])


def test_replicated_arrays_are_whole_everywhere():
    mesh = parallel.make_mesh(2)
    placed = parallel.put_replicated({"a": np.arange(5.0), "b": np.float32(3)}, mesh)
    assert all(shard.data.shape == (5,) for shard in placed["a"].addressable_shards)
    np.testing.assert_array_equal(parallel.fetch(placed)["a"], np.arange(5.0))
    assert parallel.fetch(placed)["b"] == 3


def test_one_host_loads_everything():
    assert parallel.this_host(10) == slice(0, 10)
    assert parallel.is_main_process()


def test_a_state_is_cut_along_its_longest_axis_that_divides():
    mesh = parallel.make_mesh(8, fsdp=2)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2}
    shapes = {"wide": (64, 192), "tall": (193, 64), "odd": (1023, 33), "small": (16,), "scalar": ()}
    state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    shardings = parallel.state_sharding(state, mesh)
    specs = {name: sharding.spec for name, sharding in shardings.items()}
    assert specs["wide"] == specs["tall"] == PartitionSpec(None, "fsdp")
    assert specs["odd"] == specs["small"] == specs["scalar"] == PartitionSpec()
    placed = jax.device_put(state, shardings)
    all_bytes = sum(array.nbytes for array in state.values())
    assert parallel.bytes_on_one_device(placed) == all_bytes - 4 * (64 * 192 + 193 * 64) // 2
    with pytest.raises(UserError, match="parallel.fsdp = 3 does not divide the 8 devices"):
        parallel.make_mesh(0, fsdp=3)
    assert parallel.make_mesh(4, fsdp=0).shape["fsdp"] == 4


def test_programs_are_kept_in_a_folder_if_there_is_one(monkeypatch):
    updates = {}
    monkeypatch.setattr(jax.config, "update", updates.__setitem__)
    parallel.keep_programs("")
    assert not updates
    parallel.keep_programs("/runs/xla")
    assert updates["jax_compilation_cache_dir"] == "/runs/xla" and len(updates) == 2
