"""One call of the compiled train step, which runs one step or several."""

from typing import NamedTuple


class Call(NamedTuple):
    """A call of the compiled train step.

    Attributes:
        number: number of the call in this process, counted from 0.
        first: number of its first step, counted from 0.
        steps: number of steps that it runs.
    """

    number: int
    first: int
    steps: int

    @property
    def done(self) -> int:
        """Finished steps after the call."""
        return self.first + self.steps

    def reaches_multiple(self, period: int) -> bool:
        """Returns whether a multiple of `period` steps lies within the call, or at its end."""
        return self.done // period > self.first // period
