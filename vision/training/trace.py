"""A profile of some training steps, for TensorBoard's profile page (pip install xprof)."""

import jax

BEGIN, CALLS = 5, 10  # after so many calls of the training step, over so many


class Trace:
    """Traces calls of the training step.

    Args:
        directory: where to, a `pathlib.Path`; false = no trace.
        say: called with a line of text when the trace is written.
    """

    def __init__(self, directory, say):
        self._directory, self._say = directory, say
        self._running = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()

    def before(self, number, step):
        """To be called before each call of the step: the number of this call, counted from 0, and of its first step."""
        if not self._directory:
            return
        if number == BEGIN:
            jax.profiler.start_trace(str(self._directory))
            self._running, self._first = True, step
        elif number == BEGIN + CALLS:
            self._stop(step)

    def _stop(self, step=None):
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            until = f" to {step}" if step else " on"
            self._say(f"traced steps {self._first + 1}{until}: tensorboard --logdir {self._directory}")
