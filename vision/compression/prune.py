"""Makes a run's model smaller: whole channels, heads and hidden units are removed, the least
important first.

    python -m vision.compression.prune --workdir runs/pets --out runs/half --ratio 0.5
    --config.train.epochs=5
    python -m vision.main --workdir runs/half                                               # trains
    it
    python -m vision.compression.prune --workdir runs/pets --out runs/half --ratio 0.5 --steps 3
    --config.train.epochs=5

--ratio is the share of the parameters that goes at least; with --target flops, of the
multiply-adds; with --target latency, of the time that ONNX Runtime takes for --batch images,
measured here beside the original. The result is a run like any other, of which the model has fewer
channels; what it lost in accuracy, training it further brings back. That is done with the run's own
config and what --config.KEY=VALUE changes of it, as a rule a tenth of the learning rate. Without
--steps it is not trained here. With --steps N the ratio is reached in N steps, with a training
after each, in OUT-1, OUT-2, ... and at last OUT; interrupted, the same command goes on.

Of each layer --floor stays, a tenth: what is left of a whole network hardly learns past a layer
that is nearly empty. --importance: l1, the norm of filters, by which every layer loses the same
share; bn, the scale of batch norms; taylor, the change of the loss on training images.
"""

import json
import pathlib
import re

from absl import flags, logging

from vision import cli
from vision.config.flags import parse_stage
from vision.config.validate import leaves, validate
from vision.errors import UserError, check_choice, check_range
from vision.run.directory import own_config
from vision.support.memory import keep_freed_memory

# What a pruned run is, and no override changes: its model, trained as a whole from what was pruned.
FIXED = (
    *(
        "model.name",
        "model.variant",
        "model.options.",
        "model.pretrained",
        "model.head",
        "transfer.mode",
    ),
    *(
        "transfer.depth",
        "transfer.trainable",
        "transfer.cache_embeddings",
        "imbalance.retrain_head",
    ),
    *("data.image_size", "data.channels"),
)


def main(argv):
    config, values, words = parse_stage(argv, __doc__, _flags, lambda: own_config(argv))
    if (
        words
        or not values.workdir
        or any(re.match(r"--config(=|$)", argument) for argument in argv)
    ):
        raise UserError("which run? Give --workdir RUN" + (f", not '{words[0]}'" if words else ""))
    if not values.out:
        raise UserError("where to? Give --out DIRECTORY")
    check_range(
        "--ratio", values.ratio, 0 < values.ratio < 1, "between 0 and 1, the share to remove"
    )
    check_range("--floor", values.floor, 0 <= values.floor < 1, "in [0, 1), the share to keep")
    for name in ("steps", "batch"):
        check_range(f"--{name}", values[name].value, values[name].value >= 1, "at least 1")
    overrides = {} if config is None else _overrides(config, own_config(argv))
    if config is not None:
        validate(config)
        if values.steps > 1 and config.parallel.keep_memory:
            keep_freed_memory()
    from vision.compression import gradual
    from vision.compression.cut import TARGETS
    from vision.compression.importance import IMPORTANCES

    check_choice("--importance", values.importance, IMPORTANCES)
    check_choice("--target", values.target, TARGETS)
    logging.set_verbosity(logging.ERROR)  # libraries' chatter
    asked = {
        name: values[name].value
        for name in ("ratio", "importance", "target", "batch", "floor", "steps")
    }
    record = gradual.prune_run(
        config, {"run": values.workdir} | asked | {"config": overrides}, pathlib.Path(values.out)
    )
    if record is not None:
        print(
            *describe(record),
            f"evaluate it: python -m vision.evaluation --workdir {values.out}",
            sep="\n",
        )
        if values.steps == 1:
            print(f"train it: python -m vision.main --workdir {values.out}")


def _flags(values):
    flags.DEFINE_string("workdir", "", "directory of a run", flag_values=values)
    flags.DEFINE_string("out", "", "directory of the pruned run; new", flag_values=values)
    flags.DEFINE_float("ratio", 0.5, "share of the target that goes, in (0, 1)", flag_values=values)
    flags.DEFINE_float(
        "floor", 0.1, "share of each layer's channels that stays at least", flag_values=values
    )
    flags.DEFINE_string("importance", "l1", "l1, bn, taylor", flag_values=values)
    flags.DEFINE_string("target", "parameters", "parameters, flops, latency", flag_values=values)
    flags.DEFINE_integer(
        "batch", 32, "images at a time that latency is measured with", flag_values=values
    )
    flags.DEFINE_integer(
        "steps",
        1,
        "in how many steps, with a training after each where above 1",
        flag_values=values,
    )


def _overrides(config, own):
    """Returns {key: value} of what the command line changes of a run's config."""
    before = dict(leaves(own))
    changed = {
        key: value for key, value in leaves(config) if key not in before or value != before[key]
    }
    for key in changed:
        if key.startswith(FIXED):
            raise UserError(
                f"--config.{key}: a pruned run has the model of its run, and is trained as a whole"
            )
    return json.loads(json.dumps(changed))


def describe(record):
    """Returns the lines that the command prints of a pruning.json."""
    lines = [
        f"{what}: {before:,} -> {after:,} ({100 * (1 - after / before):.1f} % less)"
        for what, (before, after) in record["counts"].items()
    ]
    if "latency" in record:
        found = record["latency"]
        lines.append(
            f"latency: {found['original']:.2f} -> {found['pruned']:.2f} ms ({100 * (1 - record['share']):.1f} % less), "
            f"ONNX Runtime, {found['batch']} images at a time, {found['cores']} cores, {found['rounds']} rounds"
        )
    return lines


if __name__ == "__main__":
    cli.run(main)
