"""Chooses a config for a source that is given without one: `vision train photos/`."""

import dataclasses
import os
import re
import shlex
from collections.abc import Sequence

from ml_collections import ConfigDict

from vision.config import shipped
from vision.config.flags import positional
from vision.config.load import is_config, load
from vision.config.written import config_file
from vision.data.sample import look
from vision.data.sources import Source, compose, members, open_splits, parse
from vision.errors import UserError
from vision.run.directory import named_workdir, resumed_config
from vision.stages import as_called
from vision.support.accelerator import has_accelerator
from vision.support.packaged import file_of

TRANSFER = "transfer_folder.py"
PLAIN = "resnet_folder.py"
SAMPLE = 16  # images whose sizes are looked at
SMALL = 96  # px: a network for 224 would mostly see enlarged pixels
LEAST_STEPS = 75  # 60 images have two batches: 12 epochs of them are too few (transfer_neu: 40)
EVALUATIONS = 12  # of such a training, instead of one an epoch
CPU_REASON = (
    "on a CPU faster than all layers, and as accurate on the data tried; for all layers, "
    "--config.transfer.mode=full --config.transfer.depth=0"
)
NAME = "config.py"  # in the run directory


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A config, and why it was chosen.

    Attributes:
        config: the config, with the source.
        start: which weights the training starts from and why, in words.
        cpu_depth: how many of the last blocks learn, as chosen for a machine without an
            accelerator; 0 with one.
    """

    config: ConfigDict
    start: str
    cpu_depth: int = 0

    def lines(self, workdir: str) -> list[str]:
        """Returns what was chosen and why, and where the config will be, in words."""
        others = "python -m vision.config.shipped lists others for --config"
        return [self.summary(), f"config: {workdir}/{NAME}; {others}"]

    def summary(self) -> str:
        """Returns what was chosen and why, one line."""
        train = self.config.train
        length = f"{train.steps} steps" if train.steps else f"{train.epochs:g} epochs"
        size = f"{self.config.data.image_size} px"
        return f"{self.config.data.source}: {self._reason()}; {size}, {length}, {self._flips()}"

    def _reason(self) -> str:
        """Returns what was chosen and why, as the config is now, in words."""
        learning = self._what_learns()
        return f"{self.start}; {learning}" if learning else self.start

    def _what_learns(self) -> str:
        """Returns which layers learn, in words; "" if the training starts from no weights."""
        mode = self.config.transfer.mode
        if not self.config.model.pretrained:
            return ""
        if mode == "full":
            return "all layers learn"
        if mode != "partial":
            return f"transfer.mode={mode}"
        depth = self.config.transfer.depth
        blocks = f"the head and the last {depth} blocks learn"
        return f"{blocks}, {CPU_REASON}" if depth and depth == self.cpu_depth else blocks

    def _flips(self) -> str:
        """Returns how images are mirrored, in words."""
        augment = self.config.augment
        ways = [("left to right", augment.flip_horizontal), ("upside down", augment.flip_vertical)]
        chosen = [way for way, is_on in ways if is_on]
        return f"mirrored {' and '.join(chosen)}" if chosen else "not mirrored"

    def text(self, command: str) -> str:
        """Returns the config as a file that runs as it is.

        Args:
            command: how it came about, for the docstring.
        """
        config = self.config
        reason = self._reason()
        reason = f"{reason[0].upper()}{reason[1:]}."
        lines = [f"The training of {config.data.source}.", "", f"    {command}", "", reason]
        return config_file(config, lines)


def source_of(words: Sequence[str]) -> str:
    """Returns the source that the arguments of a training name; "" if they name none.

    Args:
        words: the arguments that are not flags.

    Raises:
        UserError: there are several, or it is a config.
    """
    if not words:
        return ""
    first = words[0]
    if len(words) > 1:
        raise UserError(
            f"unexpected argument '{words[1]}': flags start with --, overrides with --config., and "
            f"several sources are one argument: '{first} + {words[1]}'"
        )
    if is_config(first):
        raise UserError(f"{first} is a config: give it as --config {first}")
    kind, argument, options = parse(first)
    return compose(kind, argument.rstrip(os.sep) or argument, options)


def config_without_file(argv: Sequence[str], chosen: list[Recipe]) -> ConfigDict | None:
    """Returns the config of the run in --workdir, or one for the source; None without both.

    Args:
        argv: arguments of a training without --config.
        chosen: gets what was chosen for the source.

    Raises:
        UserError: the source cannot be opened, or the run cannot be resumed.
    """
    config, choice = resume_or_choose(source_of(positional(argv)), named_workdir(argv))
    if choice is not None:
        chosen.append(choice)
    return config


def resume_or_choose(
    source: str, workdir: str | os.PathLike[str]
) -> tuple[ConfigDict | None, Recipe | None]:
    """Returns (config, why it was chosen) of a training that is given no config.

    If its directory holds a run, that is the run's own config and None: what would be chosen today
    depends on the number of images and on the machine.

    Args:
        source: the name of a source; "" for the run's own.
        workdir: the run directory, which need not exist; "" for a new one.

    Raises:
        UserError: the source cannot be opened, or the run cannot be resumed.
    """
    config = resumed_config(workdir) if os.fspath(workdir) else None
    choice = None
    if config is None and source:
        choice = choose(source)
        config = choice.config
    if config is not None and source:
        config.data.source = source
    return config, choice


def title(source: str) -> str:
    """Returns a name for what is trained on a source: the last part of its argument."""
    if not source:
        return ""
    kind, argument, _ = parse(members(source)[0])
    name = os.path.basename(os.path.realpath(argument)) if argument else kind
    return re.sub(r"[^\w.-]+", "_", name) or kind


def next_commands(workdir: str, name: str) -> list[str]:
    """Returns the commands that can follow a training, a line each.

    Args:
        workdir: the run.
        name: what its model will be called.
    """
    run = shlex.quote(workdir)
    rows = [
        (f"python -m vision.evaluation --workdir {run}", "a report: where does it fail?"),
        (f"python -m vision.predict --workdir {run} new.jpg", "the class of a new image"),
        (f"python -m vision.export --workdir {run} --out models/{name}/1", "without JAX"),
        ("python -m vision.serving --models models", "a server and its page"),
    ]
    width = max(len(as_called(command)) for command, _ in rows)
    return ["next:", *(f"  {as_called(command):<{width}}  # {what}" for command, what in rows)]


def choose(source: str) -> Recipe:
    """Returns what to train on a source.

    That is transfer learning from published weights, if there are any on this machine, and else a
    plain network. Without an accelerator only the last blocks learn.

    Args:
        source: the name of a source.

    Raises:
        UserError: the source cannot be opened.
    """
    parts = open_splits(source)
    part = parts["train"] if "train" in parts else next(iter(parts.values()))
    mode = "full" if has_accelerator() else "partial"
    config = load(f"{shipped.folder() / TRANSFER}::{mode}")
    cpu_depth = config.transfer.depth
    missing = _why_no_weights(config)
    if missing:
        config = load(str(shipped.folder() / PLAIN))
    config.data.source = source
    config.augment.flip_vertical = False  # right for steel, wrong for most photos
    _fit(config, part, "train" in parts)
    if missing:
        return Recipe(config, f"ResNet from scratch, because weights are missing ({missing})")
    weights = "EfficientNet-Lite0's ImageNet weights, which are installed"
    return Recipe(config, f"transfer learning from {weights}", cpu_depth)


def _why_no_weights(config: ConfigDict) -> str:
    """Returns why the weights of a config cannot be had; "" if they can."""
    try:
        file_of("model.pretrained", config.model.pretrained)
    except UserError as error:
        return str(error).partition("\n")[0]
    return ""


def _fit(config: ConfigDict, part: Source, is_split: bool) -> None:
    """Fits the size and the length of a training to the images.

    Args:
        config: changed in place.
        part: the images that are trained on or, unless `is_split`, from which they are drawn.
        is_split: whether the source has splits of its own.
    """
    sides = [max(shape[:2]) for shape in look(part, SAMPLE).shapes.values()]
    if sides and max(sides) <= SMALL:
        config.data.image_size = SMALL
    share = 1.0 if is_split else config.data.fractions[0]
    images = max(1, round(share * len(part)))
    epochs = float(round(LEAST_STEPS * config.train.batch_size / images))
    if epochs > config.train.epochs:
        config.train.epochs = epochs
        config.train.eval_every = LEAST_STEPS // EVALUATIONS
