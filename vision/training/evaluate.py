"""A split's metrics: every image once, on all devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vision import metrics, parallel
from vision.data.loading.loader import Loader
from vision.support.progress import Progress
from vision.training import interruption
from vision.training.pace import Pace
from vision.training.step import State, TrainStep


def eval_batch_size(c: ConfigDict) -> int:
    """Returns how many images `config.train` evaluates at a time."""
    return c.eval_batch_size or c.batch_size


def evaluate(
    train_step: TrainStep,
    state: State,
    loader: Loader,
    batch_size: int,
    with_confusion: bool = False,
    title: str = "validating",
) -> dict[str, Any]:
    """Returns `metrics.summarize` of a split.

    Args:
        train_step: the run's `TrainStep`.
        state: its state; the moving average of the weights is evaluated if there is one.
        loader: loader of a split.
        batch_size: images at a time, over all devices.
        with_confusion: whether to return `metrics.confusion` too.
        title: of the pass, for its progress.

    Raises:
        UserError: the devices run out of memory.
        Interrupted: a signal has come.
    """
    program = train_step.evaluate
    pairs: list[jax.Array] | None = [] if with_confusion else None
    summary, _ = _measure(program, state, loader, batch_size, title, pairs)
    if pairs is not None:
        summary |= metrics.confusion(_joined(pairs), len(summary["f1"]))
    return summary


def evaluate_with_logits(
    train_step: TrainStep, state: State, loader: Loader, batch_size: int, title: str
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Returns what `evaluate` does, with the confusion matrix, and each image's logits.

    Returns:
        (summary, logits float (N, C), whether each image can be read, bool (N,)).
    """
    parts: list[jax.Array] = []
    summary, logits = _measure(train_step.test, state, loader, batch_size, title, parts)
    pairs = _joined(parts)
    summary |= metrics.confusion(pairs, len(summary["f1"]))
    count = len(loader)
    return summary, np.concatenate(logits)[:count], pairs[0, :count] >= 0


def _joined(pairs: list[jax.Array]) -> np.ndarray:
    """Returns the true and predicted classes of all batches, int (2, N), with the padding."""
    return np.concatenate(parallel.fetch(pairs), 1)


def _measure(
    program: Callable[..., Any],
    state: State,
    loader: Loader,
    batch_size: int,
    title: str,
    pairs: list[jax.Array] | None,
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Returns (summary, logits of each batch, if any).

    Args:
        program: `evaluate` or `test` of a `TrainStep`.
        state: see `evaluate`.
        loader: see `evaluate`.
        batch_size: see `evaluate`.
        title: see `evaluate`.
        pairs: gets the true and predicted classes of each batch, int (2, B); None if nobody needs
            them, as in the validations of a training.
    """
    sums = None
    logits: list[np.ndarray] = []
    pace = Pace()
    advice = f"evaluating {batch_size} images at a time: lower train.eval_batch_size"
    with parallel.out_of_memory(lambda: advice), Progress(title, len(loader), "images") as work:
        for batch in work.over(loader.eval_batches(batch_size), batch_size):
            interruption.raise_if_agreed()
            batch_sums, batch_pairs, *batch_logits = program(state, batch, loader.data)
            sums = batch_sums if sums is None else metrics.add(sums, batch_sums)
            if pairs is not None:
                pairs.append(batch_pairs)
            logits += parallel.fetch(batch_logits)
            pace.add(jax.tree.leaves(sums)[0])
        return metrics.summarize(parallel.fetch(sums)), logits
