"""Checkpoints: every bit comes back, whatever is damaged; the right ones are kept."""

import json
import resource
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.config import default
from vision.errors import RunError, UserError
from vision.run import checkpoints as module
from vision.run.checkpoints import Checkpoints
from vision.run.checksum import checksum, checksum_in_order, sealed


def state(step):
    rng = np.random.RandomState(step)
    params = {
        "kernel": jnp.asarray(rng.randn(40, 30), jnp.float32),
        "bias": jnp.asarray(rng.randn(30), jnp.bfloat16),
    }
    return {"step": jnp.int32(step), "params": params, "lr_scale": jnp.float32(1)}


def open_in(directory, report=lambda text: None, **changes):
    c = default().checkpoint
    c.update(changes)
    return Checkpoints(directory, c, report)


def write(directory, measured, metric="val/accuracy", **changes):
    """Saves a checkpoint a step, from step 1 on; a value of None is a checkpoint without
    metrics."""
    checkpoints = open_in(directory, metric=metric, **changes)
    for step, value in enumerate(measured, 1):
        checkpoints.save(
            step, state(step), {"at": step}, None if value is None else {metric: value}
        )
    checkpoints.close()


def steps_in(directory):
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


def assert_is(restored, step):
    assert jax.tree.structure(restored) == jax.tree.structure(state(step))
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state(step)), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two checkpoints, 1 the best and 2 the latest; tests copy it."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    write(directory, [0.9, 0.2])
    return directory


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def largest(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def delete(file):
    file.unlink()


def empty(file):
    file.write_bytes(b"")


DAMAGES = (flip, cut, delete, empty)


class Fields(NamedTuple):
    slow: jax.Array
    count: jax.Array


def test_checksum_is_that_of_what_orbax_reads(tmp_path, monkeypatch):
    """A named tuple comes back as a dict, whose keys are sorted; older checkpoints have the
    checksum in the order of the fields."""
    state = {"opt": Fields(jnp.arange(3.0), jnp.int32(4))}
    assert checksum(state) == checksum({"opt": {"slow": jnp.arange(3.0), "count": jnp.int32(4)}})
    assert checksum(state) != checksum_in_order(state)
    with monkeypatch.context() as patch:
        patch.setattr(module, "checksum", checksum_in_order)
        with Checkpoints(tmp_path, default().checkpoint) as written:
            written.save(1, state, {})
    with Checkpoints(tmp_path, default().checkpoint) as older:
        restored, _ = older.restore_latest(state)
    np.testing.assert_array_equal(restored["opt"].slow, state["opt"].slow)


def test_saved_bits_come_back(copied):
    checkpoints = open_in(copied)
    restored, progress = checkpoints.restore_latest(state(0))
    assert_is(restored, 2)
    assert progress == {"at": 2}
    step, best = checkpoints.restore_best(state(0))
    assert step == 1
    assert_is(best, 1)
    checkpoints.close()


def test_state_may_be_donated_while_it_is_written(tmp_path):
    """What the loop does: the next step overwrites the buffers while Orbax writes. The checksum
    sees any mixture."""
    update = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    current = {"x": jnp.zeros(2_000_000)}
    expected = None
    said = []
    checkpoints = open_in(tmp_path / "checkpoints", said.append)
    for step in range(1, 4):
        checkpoints.save(step, current, {}, None)
        expected = step - 1
        for _ in range(20):
            current = update(current)
        current = jax.tree.map(lambda x, s=step: jnp.full_like(x, s), current)
    restored, _ = checkpoints.restore_latest(current)
    checkpoints.close()
    np.testing.assert_array_equal(restored["x"], expected)
    assert not said


def test_any_damage_to_any_file_is_survived(saved, tmp_path):
    """Whatever happens to whichever file of the latest checkpoint, one of the two comes back, bit
    by bit."""
    fallen_back = set()
    for file in sorted(p.relative_to(saved) for p in (saved / "2").rglob("*") if p.is_file()):
        for damage in DAMAGES:
            directory = shutil.copytree(saved, tmp_path / "checkpoints")
            damage(directory / file)
            said = []
            checkpoints = open_in(directory, said.append)
            restored, progress = checkpoints.restore_latest(state(0))
            checkpoints.close()
            step = progress["at"]
            assert_is(restored, step)
            moved = [line for line in said if "the validation result of checkpoint 2" not in line]
            assert len(moved) == (step == 1), f"{damage.__name__} {file}: {said}"
            if step == 1:
                fallen_back.add(damage)
                assert "checkpoint 2 is damaged" in moved[0] and steps_in(directory) == [1]
            shutil.rmtree(directory)
            shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
    assert fallen_back == set(DAMAGES)


def write_digit(progress):
    progress["at"] = 7


def write_text(progress):
    progress["at"] = "2"


@pytest.mark.parametrize(
    ("change", "reason"), [(write_digit, "its checksum differs"), (write_text, "its progress")]
)
def test_progress_that_has_changed_is_damage(copied, change, reason):
    file = copied / "2" / "record" / "metadata"
    record = json.loads(file.read_text())
    change(record["progress"])
    file.write_text(json.dumps(record))
    said = []
    restored, progress = open_in(copied, said.append).restore_latest(state(0), {"at": int})
    assert_is(restored, 1)
    assert progress == {"at": 1}
    assert len(said) == 1 and f"checkpoint 2 is damaged ({reason}" in said[0]


def test_runs_are_compared_by_the_checksum_of_their_arrays(copied):
    record = json.loads((copied / "2" / "record" / "metadata").read_text())
    assert record["arrays"] == checksum(state(2)) != record["checksum"]


@pytest.mark.parametrize("seal", [sealed, dict])
def test_older_checksums_are_of_the_state_only(copied, seal):
    """Then progress had one of its own, or none."""
    file = copied / "2" / "record" / "metadata"
    record = {"progress": seal({"at": 2}), "checksum": checksum(state(2))}
    file.write_text(json.dumps(record))
    restored, progress = open_in(copied).restore_latest(state(0), {"at": int})
    assert_is(restored, 2)
    assert progress == {"at": 2} and open_in(copied).restore_best(state(0))[0] == 1


def test_a_validation_that_has_changed_makes_no_checkpoint_the_best(copied):
    file = copied / "2" / "metrics" / "metrics"
    file.write_text(file.read_text().replace("0.2", "0.99"))
    said = []
    assert open_in(copied, said.append).restore_best(state(0))[0] == 1
    assert said == ["the validation result of checkpoint 2 is damaged: it cannot be the best"]


HEADERS = (
    "[]",
    '{"commit_timestamp_nsecs": 9223372036854775807000}',
    '{"performance_met": {}, "custom_metadata": {}}',
)


@pytest.mark.parametrize("header", HEADERS)
def test_a_damaged_header_is_not_missed(copied, header):
    """Orbax would not open the directory."""
    (copied / "2" / "_CHECKPOINT_METADATA").write_text(header)
    assert_is(open_in(copied).restore_latest(state(0))[0], 2)
    assert open_in(copied).read_best()[0] == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_largest_file_damaged_then_the_step_is_saved_again(copied, damage):
    damage(largest(copied / "2"))
    said = []
    checkpoints = open_in(copied, said.append)
    restored, _ = checkpoints.restore_latest(state(0))
    assert_is(restored, 1)
    assert "checkpoint 2 is damaged" in said[0]
    assert (copied.parent / "damaged" / "2").is_dir()
    checkpoints.save(2, state(2), {"at": 2}, {"val/accuracy": 0.95})
    checkpoints.save(3, state(3), {"at": 3}, {"val/accuracy": 0.1})
    assert checkpoints.restore_best(state(0))[0] == 2
    checkpoints.close()
    assert_is(open_in(copied).restore_latest(state(0))[0], 3)
    assert len(said) == 1


def test_best_damaged_gives_the_latest(copied):
    flip(largest(copied / "1"))
    said = []
    step, restored = open_in(copied, said.append).restore_best(state(0))
    assert step == 2
    assert_is(restored, 2)
    assert len(said) == 1 and "checkpoint 1 is damaged" in said[0]


def test_all_damaged(copied):
    for step in (1, 2):
        flip(largest(copied / str(step)))
    for restore in ("restore_latest", "restore_best"):
        with pytest.raises(UserError, match="no checkpoint .* can be restored .*checksum"):
            getattr(open_in(copied), restore)(state(0))
    assert steps_in(copied) == [1, 2]  # nothing is moved: the next start reports the same


def test_changed_model_is_not_called_damage(copied):
    other = state(0)
    other["params"]["kernel"] = jnp.zeros((40, 31))
    with pytest.raises(UserError, match="If the code of the model"):
        open_in(copied).restore_latest(other)
    with pytest.raises(UserError, match="If the code of the model"):
        open_in(copied).restore_latest(state(0) | {"more": jnp.zeros(3)})
    assert steps_in(copied) == [1, 2]
    assert not (copied.parent / "damaged").exists()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_leftovers_of_a_killed_save(copied, step):
    """Temporary folders, under Orbax's name for them and an older one, are skipped, and the
    step saves again."""
    for name in (f"{step}.orbax-checkpoint-tmp", f"{step}.orbax-checkpoint-tmp-1700000000000000"):
        shutil.copytree(copied / "2" / "state", copied / name / "state")
    checkpoints = open_in(copied)
    assert_is(checkpoints.restore_latest(state(0))[0], 2)
    checkpoints.save(3, state(3), {"at": 3}, {"val/accuracy": 0.5})
    checkpoints.close()
    assert_is(open_in(copied).restore_latest(state(0))[0], 3)


def test_empty_directory(tmp_path):
    checkpoints = open_in(tmp_path / "checkpoints")
    assert checkpoints.restore_latest(state(0)) is None
    with pytest.raises(UserError, match="there is none"):
        checkpoints.restore_best(state(0))
    checkpoints.close()


@pytest.mark.parametrize(
    ("accuracies", "changes", "kept", "best"),
    [
        ([0.1, 0.9, 0.3, 0.2, 0.4], {}, [2, 4, 5], 2),
        ([0.1, 0.9, 0.3, 0.2, 0.4], {"metric": "val/loss"}, [1, 4, 5], 1),
        ([0.9, 0.1, 0.2, 0.3], {"keep_latest": 1}, [1, 4], 1),
        ([0.1, 0.2, 0.3], {"keep_latest": 1}, [3], 3),
        ([0.9, 0.8, 0.1, 0.2, 0.3], {"keep_latest": 1, "keep_best": 2}, [1, 2, 5], 1),
        ([None, 0.9, None, None, 0.3, None], {}, [2, 5, 6], 2),
        ([None, None, None, None], {}, [3, 4], 4),
        ([0.5, float("nan"), 0.4, 0.3], {"keep_latest": 1}, [1, 4], 1),
        ([0.5, float("nan"), 0.6, 0.7], {"keep_latest": 1, "metric": "val/loss"}, [1, 4], 1),
    ],
)
def test_what_is_kept(tmp_path, accuracies, changes, kept, best):
    """The newest always, the best always; those without metrics no longer than the newest."""
    write(tmp_path / "checkpoints", accuracies, **changes)
    assert steps_in(tmp_path / "checkpoints") == kept
    assert open_in(tmp_path / "checkpoints", **changes).restore_best(state(0))[0] == best


def test_policy_holds_across_processes(tmp_path):
    """A new process knows the metrics of the one before."""
    write(tmp_path / "checkpoints", [0.1, 0.9, 0.2])
    checkpoints = open_in(tmp_path / "checkpoints")
    for step in (4, 5, 6):
        checkpoints.save(step, state(step), {}, {"val/accuracy": 0.3})
    checkpoints.close()
    assert steps_in(tmp_path / "checkpoints") == [2, 5, 6]


def test_what_cannot_be_written(tmp_path):
    """A limit on the size of files stands for a full disk: one message, and the checkpoint before
    is whole."""
    checkpoints = open_in(tmp_path / "checkpoints")
    checkpoints.save(1, state(1), {"at": 1}, None)
    checkpoints.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(RunError, match="cannot write a checkpoint to"):
            checkpoints.save(2, state(2), {"at": 2}, None)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_is(open_in(tmp_path / "checkpoints").restore_latest(state(0))[0], 1)


@pytest.mark.parametrize("mode, best", [("max", 2), ("min", 5)])
def test_what_a_killed_removal_has_left_is_removed(tmp_path, mode, best):
    """Orbax keeps all of `keep_latest`; a later call that keeps fewer finds the others."""
    directory = tmp_path / "checkpoints"
    metric = "score/own"
    write(directory, [0.3, 0.9, 0.5, None, 0.1, 0.4, None], metric, keep_latest=7, mode=mode)
    shutil.rmtree(directory / "1" / "record")
    assert steps_in(directory) == [1, 2, 3, 4, 5, 6, 7]
    with open_in(directory, metric=metric, keep_latest=2, mode=mode) as checkpoints:
        checkpoints.remove_surplus()
        assert steps_in(directory) == sorted({best, 6, 7})
        assert checkpoints.restore_best(state(0))[0] == best


def test_a_run_that_begins_does_without_orbax(tmp_path):
    code = (
        "import sys\n"
        "from tests.run.test_checkpoints import open_in, state\n"
        "import pathlib\n"
        f"with open_in(pathlib.Path({str(tmp_path)!r}, 'checkpoints')) as checkpoints:\n"
        "    assert checkpoints.restore_latest(state(1)) is None\n"
        "    checkpoints.wait()\n"
        "assert not any(name.startswith('orbax') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list((tmp_path / "checkpoints").iterdir()) == []
