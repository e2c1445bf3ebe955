"""Checkpoints through Orbax: asynchronous, atomic, checked. The latest are kept, and the best.

Orbax writes into a temporary folder and renames it, so a kill inside a save leaves the earlier checkpoints whole. What
a disk damages afterwards it does not always notice (a flipped bit in an array restores without complaint), so each
checkpoint carries a checksum of its own.
"""

import contextlib
import functools
import logging
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from vision.errors import UserError


class Checkpoints:
    """The checkpoints of a run.

    Args:
        directory: an absolute `pathlib.Path`.
        c: config.checkpoint.
        say: called with a line of text where a damaged checkpoint is passed over.
    """

    def __init__(self, directory, c, say=print):
        if c.mode not in ("max", "min"):
            raise UserError(f"checkpoint.mode = '{c.mode}': use max or min")
        if c.keep_latest < 1 or c.keep_best < 1:
            raise UserError("checkpoint.keep_latest and checkpoint.keep_best are at least 1")
        self._directory, self._say = directory, say
        metric = functools.partial(_metric, name=c.metric)
        keep = [
            checkpoint_managers.LatestN(n=c.keep_latest),  # or a resume might go back behind the best
            checkpoint_managers.BestN(
                get_metric_fn=metric, reverse=c.mode == "min", n=c.keep_best, keep_checkpoints_without_metrics=False
            ),
        ]
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=metric, best_mode=c.mode, preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep)
            ),
        )

    def save(self, step, state, progress, scalars=None):
        """Begins to save; returns once `state` may be donated.

        Args:
            step: the number of finished steps.
            state: the pytree of arrays.
            progress: a JSON dict: where the loader, early stopping and the like are.
            scalars: {name: float}, of the evaluation at this step if there was one.
        """
        if step in self._manager.all_steps():
            return
        record = {"progress": progress, "checksum": checksum(state)}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
        self._manager.save(step, args=args, metrics=scalars)

    def restore_latest(self, like):
        """Returns (state, progress) of the newest whole checkpoint, or None where there is none.

        A damaged one is moved to `damaged/` beside the checkpoints, with a word, and the one before is tried.

        Args:
            like: a pytree of arrays with the shapes, dtypes and shardings to restore to.

        Raises:
            UserError: if every checkpoint is damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            found = self._restore(step, like)
            if found:
                return found
            place = self._directory.parent / "damaged" / str(step)
            place.parent.mkdir(exist_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            shutil.move(self._directory / str(step), place)
            self._manager.reload()
            self._say(f"checkpoint {step} is damaged: moved to {place}; trying the one before")
        if steps:
            raise UserError(f"every checkpoint in {self._directory} was damaged: begin anew with another --workdir")
        return None

    def restore_best(self, like):
        """Returns (step, state) of the best checkpoint, or of the latest where the best is damaged or was none."""
        self.wait()
        best = self._manager.best_step()
        for step in dict.fromkeys([best, *sorted(self._manager.all_steps(), reverse=True)]):
            found = self._restore(step, like) if step is not None else None
            if found:
                return step, found[0]
            self._say(f"checkpoint {step} is damaged: passed over")
        raise UserError(f"no whole checkpoint in {self._directory}")

    def wait(self):
        self._manager.wait_until_finished()

    def close(self):
        self._manager.close()

    def _restore(self, step, like):
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore())
        try:
            with _quiet():
                found = self._manager.restore(step, args=args)
            whole = found.record["checksum"] == checksum(found.state)
        except Exception:  # Orbax and TensorStore raise many kinds, plain Exception among them
            return None
        return (found.state, found.record["progress"]) if whole else None


def checksum(tree):
    """Returns an int that changes with any bit of any array. Computed where the arrays are, whatever their sharding."""
    sums = jax.device_get([_bits(leaf) for leaf in jax.tree.leaves(tree)])
    return zlib.crc32(np.array(sums, np.uint32).tobytes())


@jax.jit
def _bits(x):
    unsigned = jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")  # 64-bit types become pairs of 32-bit words
    words = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32).ravel()
    weights = 2 * jax.lax.iota(jnp.uint32, words.size) + 1  # odd, so that no single change cancels; distinct, for order
    return (words * weights).sum(dtype=jnp.uint32)


def _metric(scalars, name):
    if name not in scalars:
        raise UserError(f"checkpoint.metric = '{name}' is not measured; there are {', '.join(sorted(scalars))}")
    return scalars[name]


@contextlib.contextmanager
def _quiet():
    """Silences the pages that Orbax logs about a damaged file: one line of ours says it."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
