"""Linear evaluation as papers on learning without labels do it: a head, trained on frozen features.

Each protocol trains with random resized crops and flips only, and measures center views of the test
split after the last step. It is an ordinary training: `configs` makes its configs from that of the
run, `vision.training.run` trains them.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vision.config import default
from vision.errors import RunError
from vision.run.readings import METRICS, curve, metric_lines
from vision.training.run import run

# Sections of the run's config that do not describe its model, its images or this machine.
RESET = (
    "augment",
    "strong",
    "transfer",
    "imbalance",
    "objective",
    "optimizer",
    "schedule",
    "train",
    "early_stopping",
    "checkpoint",
)
CROP_AREA = (0.08, 1.0)  # of GoogLeNet's crops, which all of the papers take
NEVER = 2**31 - 1  # steps between evaluations: only after the last one


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a paper trains the head.

    Attributes:
        paper: its authors, year and section.
        rates: learning rates at the paper's batch size; the best on validation is reported.
        batch_size: the paper's images per step.
        epochs: the paper's passes over the training split.
        optimizer: keys of config.optimizer.
        schedule: keys of config.schedule.
        omits: what the paper does besides, and this does not.
    """

    paper: str
    rates: tuple[float, ...]
    batch_size: int
    epochs: int
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]
    omits: tuple[str, ...] = ()


NESTEROV = {"name": "sgd", "momentum": 0.9, "nesterov": True}
# The schedule of SimCLR's and BYOL's code; their papers' sections name none.
COSINE = {"name": "cosine"}
PROTOCOLS = {
    "simclr": Protocol(
        "Chen et al. 2020 (arXiv:2002.05709), appendix B.6", (1.6,), 4096, 90, NESTEROV, COSINE
    ),
    "moco": Protocol(
        "He et al. 2019 (arXiv:1911.05722), section 4.1",
        (30.0,),
        256,
        100,
        {"name": "sgd", "momentum": 0.9},
        {"name": "step", "boundaries": (0.6, 0.8), "factor": 0.1, "warmup": 0.0},
    ),
    "byol": Protocol(
        "Grill et al. 2020 (arXiv:2006.07733), appendix C.1",
        (0.4, 0.3, 0.2, 0.1, 0.05),
        1024,
        80,
        NESTEROV,
        COSINE,
    ),
    "mae": Protocol(
        "He et al. 2021 (arXiv:2111.06377), appendix A.1",
        (6.4,),
        16_384,
        90,
        {"name": "lars", "momentum": 0.9},
        {"name": "warmup_cosine", "warmup": 10 / 90},
        ("no BatchNorm before the head",),
    ),
}
LOGISTIC = "logistic"  # the probe of `vision.evaluation.probe` itself
NAMES = (LOGISTIC, *PROTOCOLS)


def configs(
    protocol: Protocol, config: ConfigDict, weights: str, epochs: int = 0, batch_size: int = 0
) -> dict[float, ConfigDict]:
    """Returns {learning rate: config} of the trainings of a protocol.

    With another batch size than the paper's, the rates are scaled in proportion to it.

    Args:
        protocol: from `PROTOCOLS`.
        config: of the run; its model, images, seed and devices stay.
        weights: what config.model.pretrained takes: the run directory, or published weights.
        epochs: passes over the training split; 0 = the protocol's.
        batch_size: images per step; 0 = those of `config`.
    """
    c = config.copy_and_resolve_references()
    for section in RESET:
        c[section] = default()[section]
    c.data.unlabeled = ""
    c.model.pretrained = weights
    for option in ("dropout", "stochastic_depth"):
        if c.model[option]:  # features are frozen
            c.model[option] = 0.0
    c.transfer.mode = "head"
    c.transfer.new_head = True
    if c.data.random_crop_area:  # made while loading, from the entire image
        c.data.random_crop_area = CROP_AREA
    else:
        c.augment.random_resized_crop = True
        c.augment.crop_area = CROP_AREA
    c.augment.flip_horizontal = True
    c.optimizer.update(protocol.optimizer)
    c.schedule.update(protocol.schedule)
    c.train.epochs = float(epochs or protocol.epochs)
    c.train.batch_size = batch_size or config.train.batch_size
    c.train.eval_batch_size = config.train.eval_batch_size
    c.train.eval_every = NEVER
    trainings = {}
    for rate in protocol.rates:
        trainings[rate] = c.copy_and_resolve_references()
        scale = c.train.batch_size / protocol.batch_size
        trainings[rate].optimizer.learning_rate = rate * scale
    return trainings


def deviations(protocol: Protocol, c: ConfigDict) -> list[str]:
    """Returns how a training differs from its protocol, a phrase for each difference.

    Args:
        protocol: from `PROTOCOLS`.
        c: one of `configs`.
    """
    differences = list(protocol.omits)
    if c.train.epochs != protocol.epochs:
        kind = "shortened" if c.train.epochs < protocol.epochs else "lengthened"
        differences.append(f"{kind}: {c.train.epochs:g} of {protocol.epochs} epochs")
    if c.train.batch_size != protocol.batch_size:
        differences.append(
            f"batches of {c.train.batch_size} images, not {protocol.batch_size}: the learning rate "
            "is scaled in proportion"
        )
    if c.data.labels:
        differences.append(f"learns from few labels: data.labels = {c.data.labels}")
    if len(protocol.rates) > 1 and not c.data.val_fraction:
        differences.append(
            "data.val_fraction = 0: if the source has no validation split, the learning rate is "
            "chosen on the test split"
        )
    elif len(protocol.rates) == 1 and c.data.val_fraction:
        differences.append("does not learn from the validation split")
    return differences


def evaluate(
    name: str,
    config: ConfigDict,
    weights: str,
    out: pathlib.Path,
    epochs: int = 0,
    batch_size: int = 0,
) -> dict[str, Any] | None:
    """Trains the heads of a protocol, in OUT/probe or OUT/probe/RATE, and returns its record.

    Trainings that are finished already are not repeated, an interrupted one is resumed.

    Args:
        name: of `PROTOCOLS`.
        config, weights, epochs, batch_size: see `configs`.
        out: the directory.

    Returns:
        {"protocol", "paper", "linear_probe": test accuracy, "learning_rate": that of the paper,
        "validation": {learning rate: accuracy}, "epochs", "batch_size", "shortened",
        "deviations": [phrase, ...]}; None if interrupted.

    Raises:
        UserError: a config does not fit its data or devices, or `out` holds something else.
        RunError: the loss is no longer finite.
    """
    protocol = PROTOCOLS[name]
    trainings = configs(protocol, config, weights, epochs, batch_size)
    accuracies = {}
    validation = {}
    for rate, c in trainings.items():
        workdir = out / "probe"
        if len(trainings) > 1:
            workdir /= f"rate_{rate:g}"
        result = run(c, workdir, again="the same command")
        if result is None:
            return None
        accuracies[rate] = result["accuracy"]
        validation[rate] = _validation_accuracy(workdir)
    best = max(trainings, key=lambda rate: validation[rate])
    c = trainings[best]
    return {
        "protocol": name,
        "paper": protocol.paper,
        "linear_probe": float(accuracies[best]),
        "learning_rate": best,
        "validation": {f"{rate:g}": accuracy for rate, accuracy in validation.items()},
        "epochs": c.train.epochs,
        "batch_size": c.train.batch_size,
        "shortened": c.train.epochs < protocol.epochs,
        "deviations": deviations(protocol, c),
    }


def _validation_accuracy(workdir: pathlib.Path) -> float:
    """Returns the validation accuracy after a run's last step."""
    points = curve(metric_lines(workdir), "val/accuracy")
    if not points:
        raise RunError(f"{workdir / METRICS} has no val/accuracy: delete {workdir}")
    return points[-1][1]
