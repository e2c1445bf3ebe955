"""How steps reach the device: which at one call, what they cost, and what is said where memory does
not suffice."""

import jax
import jax.numpy as jnp
import pytest

from vision import parallel
from vision.config import default
from vision.data.pipeline import open_data
from vision.errors import UserError
from vision.training import dispatch
from vision.training.dispatch import CompiledSteps, explain_memory, plan
from vision.training.program import compile_lowered, compile_program, parse_options
from vision.training.setup import build_step


@pytest.mark.parametrize(
    ("start", "steps", "most", "periods"),
    [(0, 100, 8, (30, 0)), (7, 64, 32, (13, 5)), (0, 9, 1, ())],
)
def test_a_plan_runs_every_step_once_and_stops_where_something_is_to_be_done(
    start, steps, most, periods
):
    calls = list(plan(start, steps, most, periods))
    assert [step for first, count in calls for step in range(first, first + count)] == list(
        range(start, steps)
    )
    for first, count in calls:
        assert 1 <= count <= most
        assert all(first // period == (first + count - 1) // period for period in periods if period)


def test_a_plan_takes_most_steps_together():
    """A period that `most` does not divide is cut into equal calls, so that few steps are left
    over."""
    assert list(plan(0, 70, 32, (70,))) == [(0, 23), (23, 23), (46, 23), (69, 1)]
    assert list(plan(0, 20, 8, (10,))) == [(0, 5), (5, 5), (10, 5), (15, 5)]
    assert list(plan(0, 54, 32, (27, 0))) == [(0, 27), (27, 27)]
    assert list(plan(0, 3, 32, (27,))) == [(0, 3)]
    assert list(plan(0, 96, 32)) == [(0, 32), (32, 32), (64, 32)]


def test_a_resumed_plan_goes_on_as_the_first_would_have():
    """From wherever a run can be left: the same calls, and so the same bits."""
    calls = list(plan(0, 200, 8, (50, 30)))
    for first, _ in calls:
        assert list(plan(first, 200, 8, (50, 30))) == [call for call in calls if call[0] >= first]


@pytest.mark.parametrize(("asked", "resident_gib", "most"), [(0, 2.0, 1), (5, 2.0, 5), (5, 0.0, 1)])
def test_several_steps_a_call_need_data_on_the_device(asked, resident_gib, most):
    _, updates, _ = updates_of(resident_gib, steps_per_dispatch=asked)
    assert updates.most == most


def test_programs_are_compiled_for_the_batches_that_come():
    c, updates, mesh = updates_of(2.0, steps_per_dispatch=3, batch_size=16)
    said = []
    updates.prepare([(0, 3), (3, 1)], said.append)
    assert "3 steps a dispatch" in said[0]


def test_a_program_is_compiled_once_while_the_state_is_made(monkeypatch):
    _, updates, _ = updates_of()
    compiled = []
    monkeypatch.setattr(
        dispatch, "compile_lowered", lambda *a: compiled.append(1) or compile_lowered(*a)
    )
    updates.lower([(0, 1)])
    updates.begin()
    updates.prepare([(0, 1), (1, 1)], print)
    updates.prepare([(0, 1)], print)
    assert compiled == [1]  # the second call has its program


def test_what_fails_in_the_compiler_fails_where_the_program_is_needed(monkeypatch):
    def fail(*_):
        raise UserError("no such option")

    _, updates, _ = updates_of()
    monkeypatch.setattr(dispatch, "compile_lowered", fail)
    updates.lower([(0, 1)])
    updates.begin()
    with pytest.raises(UserError, match="no such option"):
        updates.prepare([(0, 1)], print)


def updates_of(resident_gib=2.0, devices=1, **train):
    c = default()
    c.data.source = "digits"
    c.data.limit = 64
    c.data.resident_gib = resident_gib
    c.model.variant = "mu/4"
    c.train.update(train)
    mesh = parallel.make_mesh(devices)
    data = open_data(c, mesh)
    return (
        c.train,
        CompiledSteps(c, build_step(c, data, mesh, 10), data.loaders["train"], mesh),
        mesh,
    )


def test_what_a_step_costs_is_known_before_it_runs():
    """The dense layers' operations, three times for forward and backward, are most of it."""
    _, small, _ = updates_of(batch_size=16)
    _, large, _ = updates_of(batch_size=64)
    small.prepare([(0, 1)], print)
    large.prepare([(0, 1)], print)
    (fixed, needed) = small.memory()
    (fixed_too, more) = large.memory()
    assert fixed < fixed_too < 1.1 * fixed and 2 * needed < more
    flops = float(large.describe().split(" GFLOP")[0])
    tokens = 64 * 5
    width = 32
    expected = 3 * 2 * tokens * 12 * width**2 / 1e9  # qkv, out and MLP of the one block
    assert 0.8 * expected < flops < 1.5 * expected
    assert "of state and data" in large.describe()


@pytest.mark.parametrize(
    "error", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), MemoryError()]
)
def test_out_of_memory_says_what_fits(error, monkeypatch):
    c, updates, mesh = updates_of(batch_size=64)
    updates.prepare([(0, 1)], print)
    with (
        pytest.raises(
            UserError, match=r"64 images at a time.*\nSet train.accumulate=2 .* train.batch_size=32"
        ),
        explain_memory(c, updates, mesh),
    ):
        raise error
    fixed, needed = updates.memory()
    monkeypatch.setattr(parallel, "memory_limit", lambda: int((fixed + needed / 7) / 0.9))
    with (
        pytest.raises(UserError, match=r"train.accumulate=8 .* train.batch_size=8"),
        explain_memory(c, updates, mesh),
    ):
        raise error


def test_out_of_memory_advises_only_what_can_be_set():
    """Three images a device: in two parts they cannot go, in three they can; of one image there is
    no less."""
    c, updates, mesh = updates_of(batch_size=24, devices=8)
    with (
        pytest.raises(
            UserError,
            match=r"Set train.accumulate=3 .* or train.batch_size=8, or model.remat=blocks",
        ),
        explain_memory(c, updates, mesh),
    ):
        raise MemoryError
    c, updates, mesh = updates_of(batch_size=8, devices=8)
    with (
        pytest.raises(UserError, match=r"Set model.remat=blocks, or parallel.fsdp=0$"),
        explain_memory(c, updates, mesh),
    ):
        raise MemoryError


def test_other_errors_stay_what_they_are():
    c, updates, mesh = updates_of(batch_size=16)
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        explain_memory(c, updates, mesh),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def test_options():
    assert parse_options("--a=1 b=true  c=x=y,z") == {"a": "1", "b": True, "c": "x=y,z"}
    with pytest.raises(UserError, match="expected NAME=VALUE, got 'b'"):
        parse_options("a=1 b")
    with pytest.raises(UserError, match="parallel.xla_options = 'xla_no_such=1'"):
        compile_program(jax.jit(lambda x: x + 1), jnp.ones(3), options="xla_no_such=1")
    program = compile_program(
        jax.jit(lambda x: x @ x), jnp.ones((8, 8)), options="xla_cpu_enable_fast_math=false"
    )
    assert program(jnp.ones((8, 8)))[0, 0] == 8
    assert program.flops == 2 * 8**3 and program.peak_bytes >= 2 * 8 * 8 * 4
