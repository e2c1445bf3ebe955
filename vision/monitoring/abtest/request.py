"""What an analysis compares."""

import dataclasses
import pathlib
from collections.abc import Sequence

from vision.monitoring.abtest.answers import Window
from vision.monitoring.abtest.samples import ACCURACY


@dataclasses.dataclass(frozen=True)
class Request:
    """What to analyze.

    Attributes:
        log: directory of the prediction log.
        model: name of the model.
        old, new: the versions.
        labels: file or folder of labels; None without.
        table: CSV or Parquet file of columns by request; None without.
        measure: what decides: "accuracy", a column of the log or of the table.
        effect: difference that matters; its sign says which direction is better.
        guardrails: (name of a measure, margin) of each.
        covariate: name of a column for CUPED; "" for none.
        unit: column of the table that names the unit of each request; "" for the request.
        shares: of the traffic that the (old, new) version gets.
        alpha: chance of a false positive.
        power: chance to see the effect, of the planned size.
        planned: units of both versions together; 0 takes what the effect asks for.
        is_sequential: whether the analysis may be repeated.
        window: the times to take.
    """

    log: pathlib.Path
    model: str
    old: str
    new: str
    labels: pathlib.Path | None = None
    table: pathlib.Path | None = None
    measure: str = ACCURACY
    effect: float = 0.01
    guardrails: Sequence[tuple[str, float]] = ()
    covariate: str = ""
    unit: str = ""
    shares: tuple[float, float] = (0.5, 0.5)
    alpha: float = 0.05
    power: float = 0.8
    planned: int = 0
    is_sequential: bool = False
    window: Window = Window()

    @property
    def judged(self) -> list[str]:
        """The measure that decides, and those of the guardrails."""
        return [self.measure, *(name for name, _ in self.guardrails)]

    @property
    def measures(self) -> list[str]:
        """Every measure that is read, the covariate too."""
        return [name for name in dict.fromkeys([*self.judged, self.covariate]) if name]
