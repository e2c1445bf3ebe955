"""A row of an experiment's table, and where its runs are."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping

HERE = pathlib.Path(__file__).parent
# {run:NAME}, {run:NAME@SEED}, {run:EXPERIMENT:NAME}; an experiment's name is that of a folder.
RUN = re.compile(r"\{run:(?:([a-z]\w*):)?([^}@]*)(?:@(\d+))?\}")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of an experiment's table.

    Attributes:
        name: what it is called in the table.
        config: the value of --config; {data} stands for the flag --data, {run:NAME} for the
            directory of the row NAME with the same seed, {run:NAME@0} with seed 0,
            {run:EXPERIMENT:NAME} for that of a row of another experiment.
        flags: {key of the config: value}, with the same placeholders and {seed}.
        published: the figure beside it, with its source.
        seeds: number of seeds.
        large: whether it runs only if --only has its exact name, or by --large, such as one that
            takes a GPU or days.
        probe: whether to measure the linear probe and the nearest neighbors on the test split.
        accuracy: whether the classifier's own accuracy means anything.
        zero_shot: whether to measure the accuracy of the classes' names as prompts.
        retrieval: whether to measure how images and captions find each other.
        balanced: whether to show the balanced accuracy too.
        reach: an accuracy in percent: the first step at which a validation found it is shown.
        command: the module that trains, of `experiments.measured.RESULTS`.
        continual: whether to show the accuracy on old and new images, and what was forgotten.
        importance: whether to measure which weights matter, after the training.
        synthesize: how many images to draw after the training, as flags of vision.synthesize, such
            as "--balance"; they are in {run:NAME}/synthetic. "" = none.
        prune: flags of vision.compression.prune. `config` is then the run that is pruned, and what
            is left of it is trained, with `flags`. "" = an ordinary training.
    """

    name: str
    config: str
    flags: Mapping[str, object] = dataclasses.field(default_factory=dict)
    published: str = ""
    seeds: int = 3
    large: bool = False
    probe: bool = False
    accuracy: bool = True
    zero_shot: bool = False
    retrieval: bool = False
    balanced: bool = False
    reach: float = 0.0
    synthesize: str = ""
    command: str = "vision.main"
    continual: bool = False
    importance: bool = False
    prune: str = ""

    def outputs(self, workdir: pathlib.Path) -> dict[str, pathlib.Path]:
        """Returns {stage: the file that it writes} of what is measured after the training."""
        files = {
            "probe": (self.probe, workdir / "probe.json"),
            "zero_shot": (self.zero_shot, workdir / "zero_shot" / "metrics.json"),
            "retrieval": (self.retrieval, workdir / "retrieval.json"),
        }
        return {stage: file for stage, (is_wanted, file) in files.items() if is_wanted}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the runs of an experiment are, and where their images are."""

    name: str
    workdir: pathlib.Path
    data: str

    def directory(self, row: str, seed: int, experiment: str = "") -> pathlib.Path:
        """Returns the directory of a row's run; of this experiment, unless another is named."""
        slug = re.sub(r"[^\w.]+", "-", row).strip("-").lower()
        return self.workdir / (experiment or self.name) / f"{slug}-{seed}"

    def fill(self, text: str, seed: int) -> str:
        """Returns a text with its placeholders filled in."""

        def directory(match: re.Match[str]) -> str:
            experiment, row, other = self._named(match, seed)
            return str(self.directory(row, other, experiment))

        return RUN.sub(directory, text).replace("{data}", self.data).replace("{seed}", str(seed))

    def runs(self, text: str, seed: int) -> list[tuple[str, str, int]]:
        """Returns (experiment, row, seed) of each run that a text names."""
        return [self._named(match, seed) for match in RUN.finditer(text)]

    def _named(self, match: re.Match[str], seed: int) -> tuple[str, str, int]:
        experiment, row, other = match.groups()
        if experiment and not (HERE / experiment).is_dir():
            row = f"{experiment}:{row}"
            experiment = ""
        return experiment or self.name, row, seed if other is None else int(other)
