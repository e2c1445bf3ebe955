"""How a training ended, and the state that it gives."""

import dataclasses

from vision.training.step import State, TrainStep


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        why: "finished", "stopped early", "pruned" or "interrupted".
        steps: finished steps.
        best_step: step of the checkpoint that `state` is from.
        state: the best checkpoint's state.
        step: the `TrainStep` of the whole model, for evaluating it.
        images_per_second: while training, without the first step; 0.0 if nothing was left to train.
        first_step: `time.perf_counter()` at the end of the first step, or None.
        train_seconds: wall time from the first batch to the end, with evaluations, over all
            processes that the run had.
    """

    why: str
    steps: int
    best_step: int
    state: State
    step: TrainStep
    images_per_second: float
    first_step: float | None
    train_seconds: float
