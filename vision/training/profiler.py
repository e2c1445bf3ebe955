"""A profile of some training steps, for TensorBoard's profile page (pip install xprof)."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

BEGIN = 5  # calls of the train step before the profile
STEPS = 10  # steps that it holds at least


class Profiler:
    """Profiles calls of the train step.

    Args:
        directory: where the profile goes; None for no profile.
        report: called with a line of text when the profile is written.
    """

    def __init__(self, directory: pathlib.Path | None, report: Callable[[str], object]):
        self._directory = directory
        self._report = report
        self._first: int | None = None
        self._is_running = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()
        if self._directory and self._first is None:
            self._report(f"no profile: the run ended before call {BEGIN + 1} of its training step")

    def before(self, number: int, step: int, state: Any) -> None:
        """Begins or ends the profile; to be called before each call of the train step.

        Args:
            number: number of the call, counted from 0.
            step: its first step.
            state: what it is called with. The loop is ahead of the device, so the profile begins
                and ends by waiting for it.
        """
        if not self._directory:
            return
        if number == BEGIN:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._directory))
            self._is_running = True
            self._first = step
        elif self._is_running and self._first is not None and step >= self._first + STEPS:
            jax.block_until_ready(state)
            self._stop(step)

    def _stop(self, step: int | None = None) -> None:
        if not self._is_running or self._first is None:
            return
        self._is_running = False
        jax.profiler.stop_trace()
        until = f" to {step}" if step else " on"
        self._report(
            f"traced steps {self._first + 1}{until}: tensorboard --logdir {self._directory}"
        )
