"""The range of each number in a config, checked before anything is opened or written.

What only the data or the devices can tell, such as whether a batch divides over them, is checked
where those are known.
"""

import math

from ml_collections import ConfigDict

from vision.config.schema import default
from vision.errors import UserError, check_range


def _rises(pair):
    return len(pair) == 2 and 0 < pair[0] <= pair[1] < math.inf


RANGES = {
    "it is at least 0": (
        lambda v: v >= 0,
        "data.image_size data.per_class data.limit data.workers data.resident_gib objective.focal_gamma "
        "objective.logit_adjustment objective.auxiliary_weight objective.ldam_margin imbalance.retrain_head "
        "audit.blank audit.tiny audit.blur audit.outlier "
        "evaluation.bootstrap evaluation.errors evaluation.examples evaluation.pairs evaluation.sample "
        "evaluation.map_images evaluation.probe "
        "optimizer.learning_rate optimizer.weight_decay optimizer.clip_norm schedule.timescale train.steps "
        "train.epochs train.eval_batch_size train.eval_every early_stopping.min_delta checkpoint.every log.images "
        "parallel.devices parallel.fsdp parallel.processes transfer.depth "
        "train.steps_per_dispatch optimizer.lookahead augment.pad_crop augment.randaugment_layers "
        "augment.mixup augment.cutmix",
    ),
    "it is at least 1": (
        lambda v: v >= 1,
        "schedule.patience train.batch_size train.accumulate early_stopping.patience checkpoint.keep_latest "
        "checkpoint.keep_best log.every transfer.lora_rank audit.aspect audit.max_imbalance "
        "evaluation.slice_images",
    ),
    "it is above 0": (
        lambda v: v > 0,
        "optimizer.eps optimizer.norm_bias_scale schedule.factor transfer.lora_alpha model.head_scale",
    ),
    "it lies in [0, 1]": (
        lambda v: 0 <= v <= 1,
        "data.max_unreadable data.crop_fraction imbalance.sampling_from imbalance.sampling_until "
        "objective.weights_from audit.near audit.confusable audit.max_unreadable audit.max_duplicates audit.max_leaks "
        "audit.max_wrong_labels transfer.unfreeze schedule.warmup schedule.start schedule.final "
        "augment.translate augment.brightness "
        "augment.contrast augment.saturation augment.random_erasing",
    ),
    "it lies in [-1, 1]": (lambda v: -1 <= v <= 1, "audit.min_agreement"),
    "it is at least 2": (lambda v: v >= 2, "audit.folds evaluation.bins"),
    "turns, in [0, 0.5]": (lambda v: 0 <= v <= 0.5, "augment.hue"),
    "degrees, in [0, 180]": (lambda v: 0 <= v <= 180, "augment.rotate"),
    "degrees, in [0, 45)": (lambda v: 0 <= v < 45, "augment.shear"),
    "it lies in [0, 30]": (lambda v: 0 <= v <= 30, "augment.randaugment_magnitude"),
    "it is (low, high), with 0 < low <= high": (_rises, "augment.crop_ratio augment.scale"),
    "it is (low, high), with 0 < low <= high <= 1": (
        lambda v: _rises(v) and v[1] <= 1,
        "augment.crop_area augment.erasing_area",
    ),
    "it lies in (0, 1]": (lambda v: 0 < v <= 1, "transfer.layer_decay evaluation.recall"),
    "it lies in [0, 1)": (
        lambda v: 0 <= v < 1,
        "objective.label_smoothing objective.effective_number_beta optimizer.momentum optimizer.b1 optimizer.b2 "
        "optimizer.ema",
    ),
    "it is () or (low, high), with 0 < low <= high <= 1": (
        lambda v: not v or (_rises(v) and v[1] <= 1),
        "data.random_crop_area",
    ),
    "they are shares of the steps, each above the one before, in [0, 1]": (
        lambda v: (
            all(a < b for a, b in zip((-1, *v), v, strict=False)) and all(0 <= b <= 1 for b in v)
        ),
        "schedule.boundaries",
    ),
}


def validate(config):
    """Checks every number of a config.

    Raises:
        UserError: names the key, its value and the range.
    """
    usual = dict(leaves(default()))
    values = dict(leaves(config))
    for key in usual:
        _check_kind(key, values[key], usual[key])
    for rule, (inside, keys) in RANGES.items():
        for key in keys.split():
            check_range(key, values[key], inside(values[key]), rule)


def leaves(config, prefix=""):
    """Yields ("group.key", value) for each key of a config that is no group."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _check_kind(key, value, usual):
    """The schema's types let None, infinities and tuples of anything pass."""
    if value is None and usual is not None:
        raise UserError(f"{key} is None: give it a value, as the default {usual!r}")
    numbers = value if isinstance(value, tuple) else (value,) if isinstance(value, float) else ()
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers):
        raise UserError(
            f"{key} = {value!r}: "
            + ("numbers only" if isinstance(value, tuple) else "no finite number")
        )
