"""What the program that starts a training may add to it: `vision.search` watches its trials.

A config says what is computed; this says who looks on, and what the trainings of a process share.
"""

import dataclasses
from collections.abc import Callable, Mapping

from vision.data.sources import Opened
from vision.training.shared import SharedSteps
from vision.training.trackers.tracking import Tracking

PRUNED = "pruned"  # how a training ended that its watcher has stopped


@dataclasses.dataclass(frozen=True)
class Validation:
    """An evaluation of the validation split, as a watcher sees it.

    Attributes:
        step: finished steps.
        steps: length of the training.
        scalars: {"val/NAME": value}.
    """

    step: int
    steps: int
    scalars: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Host:
    """What the program that starts a training adds to it.

    Attributes:
        watch: called after every validation; True stops the training, which then counts as pruned.
            It is not asked whether to stop after the last step. A run in two phases
            (`imbalance.retrain_head`) shows it the second. If a run has several processes, all of
            them call it, and must get the same answer.
        files: {name: text} of further files of the run directory, written as the training begins.
        shared: train steps that the trainings of this process share; None shares none. With them, a
            run that has another learning rate or weight decay needs no new program, but computes
            these as variables, so that its results agree with a run of its own up to rounding.
        opened: sources that the trainings of this process share; see `open_splits`. None shares
            none.
        tracking: what reports the run to a tracker; None reports to none.
    """

    watch: Callable[[Validation], bool] | None = None
    shared: SharedSteps | None = None
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    opened: Opened | None = None
    tracking: Tracking | None = None


ALONE = Host()
