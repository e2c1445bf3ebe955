"""Prunes a run's model: removes whole channels, heads and hidden units, the least important first.

    python -m vision.compression.prune --workdir runs/pets --out runs/half --ratio 0.5 \\
        --config.train.epochs=5
    python -m vision.main --workdir runs/half                               # trains it
    python -m vision.compression.prune --workdir runs/pets --out runs/half --ratio 0.5 --steps 3 \\
        --config.train.epochs=5

--ratio is the minimum share of the parameters to remove; with --target flops, of the multiply-adds;
with --target latency, of the time that ONNX Runtime takes for --batch images, measured here
alongside the original. The result is an ordinary run whose model has fewer channels; further
training restores the accuracy that it lost. It uses the run's own config with the changes of
--config.KEY=VALUE, usually a tenth of the learning rate. Without --steps, this command does not
train. With --steps N, it reaches the ratio in N steps and trains after each, in OUT-1, OUT-2, ...
and finally OUT; after an interruption, repeat the command to continue.

--floor is the share of each layer that stays, by default a tenth: a network can hardly learn
through a layer that is nearly empty. --only REGEX cuts only the layers whose names match;
pruning.json lists them. --norounded lets layers keep any number of channels, not only multiples of
4, 8 or 16. --importance: l1, the norm of filters, which cuts every layer by the same share; bn, the
scale of batch norms; taylor, the change of the loss on training images.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from absl import flags, logging

from vision import cli
from vision.config.flags import parse_stage
from vision.config.packages import check_packages
from vision.config.validate import leaves, validate
from vision.errors import UserError, check_choice, check_count, check_range
from vision.run.directory import own_config
from vision.support.extras import require
from vision.support.memory import keep_freed_memory

# keys that no override changes: a pruned run has its model, and is trained in full
FIXED = (
    "model.name",
    "model.variant",
    "model.options.",
    "model.pretrained",
    "model.head",
    "transfer.mode",
    "transfer.depth",
    "transfer.trainable",
    "transfer.cache_embeddings",
    "imbalance.retrain_head",
    "data.image_size",
    "data.channels",
)


def main(argv: list[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags, lambda: own_config(argv))
    _check_flags(argv, values, words)
    overrides = {} if config is None else _overrides(config, own_config(argv))
    if config is not None:
        validate(config)
        if values.steps > 1 and config.parallel.keep_memory:
            keep_freed_memory()
        check_packages(config)
    if values.target == "latency":
        require("--target latency", "export", only=("jax2onnx", "onnx", "onnxruntime"))
    from vision.compression import gradual
    from vision.compression.cut import TARGETS
    from vision.compression.importance import IMPORTANCES

    check_choice("--importance", values.importance, IMPORTANCES)
    check_choice("--target", values.target, TARGETS)
    logging.set_verbosity(logging.ERROR)  # libraries' chatter
    names = ("ratio", "importance", "target", "batch", "floor", "steps")
    request = {"run": values.workdir}
    request |= {name: values[name].value for name in names}
    request |= {"config": overrides}
    # Only if they are set, so that what was pruned before there were these flags is taken up again.
    if values.only:
        request["only"] = values.only
    if not values.rounded:
        request["rounded"] = False
    record = gradual.prune_run(config, request, pathlib.Path(values.out), cli.show)
    if record is not None:
        cli.show(*describe(record))
        cli.show(f"evaluate it: python -m vision.evaluation --workdir {values.out}")
        if values.steps == 1:
            cli.show(f"train it: python -m vision.main --workdir {values.out}")


def _check_flags(argv, values, words):
    """Raises `UserError` for a missing or invalid flag."""
    has_config = any(re.match(r"--config(=|$)", argument) for argument in argv)
    if words or not values.workdir or has_config:
        raise UserError("which run? Give --workdir RUN" + (f", not '{words[0]}'" if words else ""))
    if not values.out:
        raise UserError("where to? Give --out DIRECTORY")
    check_range(
        "--ratio", values.ratio, 0 < values.ratio < 1, "between 0 and 1, the share to remove"
    )
    check_range("--floor", values.floor, 0 <= values.floor < 1, "in [0, 1), the share to keep")
    for name in ("steps", "batch"):
        check_count(f"--{name}", values[name].value, 1, 65_536)


def _flags(values):
    flags.DEFINE_string("workdir", "", "run directory", flag_values=values)
    flags.DEFINE_string("out", "", "new directory for the pruned run", flag_values=values)
    flags.DEFINE_float("ratio", 0.5, "share of the target to remove, in (0, 1)", flag_values=values)
    flags.DEFINE_float(
        "floor", 0.1, "minimum share of each layer's channels to keep", flag_values=values
    )
    flags.DEFINE_string("importance", "l1", "l1, bn, taylor", flag_values=values)
    flags.DEFINE_string("target", "parameters", "parameters, flops, latency", flag_values=values)
    flags.DEFINE_string(
        "only", "", "regular expression: names of the layers to cut; '' = all", flag_values=values
    )
    flags.DEFINE_bool("rounded", True, "keep multiples of 4, 8 or 16 channels", flag_values=values)
    flags.DEFINE_integer("batch", 32, "batch size for measuring latency", flag_values=values)
    flags.DEFINE_integer(
        "steps", 1, "number of steps; if above 1, train after each", flag_values=values
    )


def _overrides(config, own):
    """Returns {key: value} of the changes that the command line makes to a run's config."""
    before = dict(leaves(own))
    changed = {
        key: value for key, value in leaves(config) if key not in before or value != before[key]
    }
    for key in changed:
        if key.startswith(FIXED):
            raise UserError(
                f"--config.{key} cannot be set: a pruned run keeps its run's model, and is trained "
                "in full"
            )
    return json.loads(json.dumps(changed))


def describe(record: Mapping[str, Any]) -> list[str]:
    """Returns the lines that the command prints about a pruning.json."""
    lines = [
        f"{what}: {before:,} -> {after:,} ({100 * (1 - after / before):.1f} % less)"
        for what, (before, after) in record["counts"].items()
    ]
    if "latency" in record:
        latency = record["latency"]
        lines.append(
            f"latency: {latency['original']:.2f} -> {latency['pruned']:.2f} ms "
            f"({100 * (1 - record['share']):.1f} % less), ONNX Runtime, batches of "
            f"{latency['batch']} images, {latency['cores']} cores, {latency['rounds']} rounds"
        )
    return lines


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
