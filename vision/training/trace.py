"""A profile of some training steps, for TensorBoard's profile page (pip install xprof)."""

import jax

BEGIN = 5  # calls of the training step before the trace
STEPS = 10  # that it holds at least


class Trace:
    """Traces calls of the training step.

    Args:
        directory: where to, a `pathlib.Path`; false = no trace.
        say: called with a line of text when the trace is written.
    """

    def __init__(self, directory, say):
        self._directory = directory
        self._say = say
        self._first = None
        self._running = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()
        if self._directory and self._first is None:
            self._say(f"no profile: the run ended before call {BEGIN + 1} of its training step")

    def before(self, number, step, state):
        """To be called before each call of the step.

        Args:
            number: of this call, counted from 0.
            step: the first that it runs.
            state: what it is called with. The loop is ahead of the device, so the trace begins and
                ends by waiting.
        """
        if not self._directory:
            return
        if number == BEGIN:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._directory))
            self._running = True
            self._first = step
        elif self._running and step >= self._first + STEPS:
            jax.block_until_ready(state)
            self._stop(step)

    def _stop(self, step=None):
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            until = f" to {step}" if step else " on"
            self._say(
                f"traced steps {self._first + 1}{until}: tensorboard --logdir {self._directory}"
            )
