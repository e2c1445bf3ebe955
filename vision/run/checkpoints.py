"""Checkpoints through Orbax: asynchronous, atomic, checked. The latest are kept, and the best.

Orbax writes into a temporary folder and renames it, so a kill inside a save leaves the earlier
checkpoints whole. What a disk damages afterwards it does not always notice (a flipped bit in an
array restores without complaint), so each checkpoint carries a checksum of its own.
"""

import contextlib
import functools
import json
import logging
import math
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from vision import parallel
from vision.errors import RunError, UserError


def open_checkpoints(workdir, config, say=print):
    """Returns the `Checkpoints` of a run's directory, a `pathlib.Path`."""
    return Checkpoints((workdir / "checkpoints").absolute(), config.checkpoint, say)


class Checkpoints:
    """The checkpoints of a run.

    Args:
        directory: an absolute `pathlib.Path`.
        c: config.checkpoint.
        say: called with a line of text where a damaged checkpoint is passed over.
    """

    def __init__(self, directory, c, say=print):
        self._directory = directory
        self._say = say if parallel.is_main_process() else (lambda _: None)
        parallel.on_main_process(lambda: _drop_damaged_metrics(directory))
        metric = functools.partial(_metric, name=c.metric, mode=c.mode)
        keep = [
            # or a resume might go back behind the best
            checkpoint_managers.LatestN(n=c.keep_latest),
            checkpoint_managers.BestN(
                get_metric_fn=metric,
                reverse=c.mode == "min",
                n=c.keep_best,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=metric,
                best_mode=c.mode,
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
            ),
        )

    def save(self, step, state, progress, scalars=None):
        """Begins to save; returns once `state` may be donated.

        Args:
            step: the number of finished steps.
            state: the pytree of arrays.
            progress: a JSON dict: where early stopping and the like are, and the run's config. The
                loader's state is the step itself.
            scalars: {name: float}, of the evaluation at this step if there was one.

        Raises:
            RunError: if this save, or the one before, which ended meanwhile, could not be written.
        """
        record = {"progress": progress, "checksum": checksum(state)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
        )
        with self._written():
            self._manager.save(step, args=args, metrics=scalars)

    def restore_latest(self, like):
        """Returns (state, progress) of the newest whole checkpoint, or None where there is none.

        Damaged ones that are newer are moved to `damaged/` beside the checkpoints, with a word:
        their steps come again.

        Args:
            like: a pytree of arrays with the shapes, dtypes and shardings to restore to.

        Raises:
            UserError: if there are checkpoints, but none can be restored. All stay where they are.
        """
        damaged = {}
        for step in self._newest_first():
            try:
                found = self._restore(step, like)
            except _Damaged as error:
                damaged[step] = error
                continue
            parallel.on_main_process(lambda: [self._set_aside(*each) for each in damaged.items()])
            self._manager.reload()
            return found
        if damaged:
            self._give_up(damaged)
        return None

    def restore_best(self, like):
        """Returns (step, state) of the best checkpoint, or of the latest where the best is damaged
        or was none.

        Raises:
            UserError: if none can be restored.
        """
        self.wait()
        damaged = {}
        best = self._manager.best_step()
        for step in dict.fromkeys([*([] if best is None else [best]), *self._newest_first()]):
            try:
                return step, self._restore(step, like)[0]
            except _Damaged as error:
                self._say(f"checkpoint {step} is damaged ({error}): passed over")
                damaged[step] = error
        self._give_up(damaged)

    def read_best(self):
        """Returns (step, state) of the best checkpoint as it was saved, a nested dict of arrays,
        wherever that was.

        Raises:
            UserError: if there is none, or it is damaged.
        """
        steps = self._newest_first()
        step = self._manager.best_step() if steps else None
        step = steps[0] if steps and step is None else step
        if step is None:
            self._give_up({})
        try:
            with _quiet():
                here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
                with ocp.StandardCheckpointer() as reader:
                    known = reader.metadata(
                        self._directory / str(step) / "state"
                    ).item_metadata.tree
                target = jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), known
                )
                args = ocp.args.Composite(
                    state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore()
                )
                found = self._manager.restore(step, args=args)
        except Exception as error:  # as in _restore
            raise UserError(
                f"checkpoint {step} in {self._directory} is damaged ({_first_line(error)})"
            ) from error
        if checksum(found.state) != found.record["checksum"]:
            raise UserError(
                f"checkpoint {step} in {self._directory} is damaged: its checksum differs"
            )
        return step, found.state

    def wait(self):
        """Waits until what was begun is saved; raises `RunError` if it could not be written."""
        with self._written():
            self._manager.wait_until_finished()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Waits as `wait` does, and ends Orbax's threads."""
        with self._written():
            self._manager.close()

    def _newest_first(self):
        return sorted(self._manager.all_steps(), reverse=True)

    def _restore(self, step, like):
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore()
        )
        fault = None
        try:
            with _quiet():
                found = self._manager.restore(step, args=args)
            expected = found.record["checksum"]
            progress = found.record["progress"]
        # Orbax and TensorStore raise many kinds, plain Exception among them
        except Exception as error:
            fault = error
        if not parallel.all_agree(fault is None):
            raise _Damaged(_first_line(fault) if fault else "as another process found") from fault
        if checksum(found.state) != expected:
            raise _Damaged("its checksum differs")
        return found.state, progress

    def _set_aside(self, step, reason):
        place = self._directory.parent / "damaged" / str(step)
        place.parent.mkdir(exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        shutil.move(self._directory / str(step), place)
        self._say(
            f"checkpoint {step} is damaged ({reason}): moved to {place}; the one before is used"
        )

    def _give_up(self, damaged):
        reasons = (
            "; ".join(f"{step}: {reason}" for step, reason in damaged.items()) or "there is none"
        )
        raise UserError(
            f"no checkpoint in {self._directory} can be restored ({reasons}).\n"
            "If the code of the model or the objective was changed, undo that; else begin anew with another --workdir"
        )

    @contextlib.contextmanager
    def _written(self):
        try:
            yield
        except Exception as error:  # such as a full disk; of the thread that writes, so of any kind
            raise RunError(
                f"cannot save a checkpoint in {self._directory}: {_first_line(error)}"
            ) from error


class _Damaged(Exception):
    """A checkpoint that cannot be restored; the message says why."""


def checksum(tree):
    """Returns an int that changes with any bit of any array. Computed where each piece of an array
    lies."""
    # One after the other: on CPUs, programs that all add over the devices of a cut array wait for
    # each other for ever.
    sums = [jax.device_get(_bits(leaf)) for leaf in jax.tree.leaves(tree)]
    return zlib.crc32(np.array(sums, np.uint32).tobytes())


@jax.jit
def _bits(x):
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    # 64-bit types become pairs of 32-bit words
    unsigned = jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")
    words = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    place = jnp.uint32(0)
    stride = 1
    # not of the flat array: making that would gather a cut one
    for axis in reversed(range(words.ndim)):
        place += jnp.uint32(stride % 2**32) * jax.lax.broadcasted_iota(
            jnp.uint32, words.shape, axis
        )
        stride *= words.shape[axis]
    weights = 2 * place + 1  # odd, so that no single change cancels; distinct, for order
    return (words * weights).sum(dtype=jnp.uint32)


def _metric(scalars, name, mode):
    """Returns what checkpoints are ranked by; what was not measured, or is no number, ranks
    last."""
    value = scalars.get(name, math.nan)
    return (-math.inf if mode == "max" else math.inf) if math.isnan(value) else value


def _drop_damaged_metrics(directory):
    """Deletes metrics that cannot be read: Orbax would not open the directory. The checkpoint
    remains."""
    for file in directory.glob("*/metrics/metrics"):
        try:
            whole = isinstance(json.loads(file.read_bytes()), dict)
        except ValueError:
            whole = False
        if not whole:
            file.unlink()


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextlib.contextmanager
def _quiet():
    """Silences the pages that Orbax logs about a damaged file: one line of ours says it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
