"""A split's metrics: every image once, on all devices."""

from vision import metrics, parallel


def eval_batch_size(c):
    """Returns how many images `config.train` evaluates at a time."""
    return c.eval_batch_size or c.batch_size


def evaluate(step, state, loader, batch_size):
    """Returns `metrics.summarize` of a split.

    Args:
        step: the run's `TrainStep`.
        state: its state; the moving average of the weights is used where there is one.
        loader: a split of `Data`.
        batch_size: images at a time, over all devices.
    """
    sums = None
    advice = f"evaluating {batch_size} images at a time: lower train.eval_batch_size"
    with parallel.out_of_memory(lambda: advice):
        for batch in loader.eval_batches(batch_size):
            added = step.evaluate(state, batch, loader.data)
            sums = added if sums is None else metrics.add(sums, added)
        return metrics.summarize(parallel.fetch(sums))
