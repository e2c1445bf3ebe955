"""How good is a model, and where does it fail? Writes a report with pictures, metrics.json and
predictions.parquet.

    python -m vision.evaluation --workdir runs/pets
    python -m vision.evaluation --workdir runs/pets --data folder:new_photos --out evaluations/new
    python -m vision.evaluation --bundle exported/pets --data folder:new_photos --out
    evaluations/new
    python -m vision.evaluation --config configs/efficientnet_lite_imagenet.py --data folder:photos
    --out lite0/

A run's own test split is reported in RUN/evaluation, where `vision.evaluation.compare.__main__`
finds it; anything else needs --out. The temperature that fits the validation split best is stored
there too, in calibration.json, and vision.predict then calibrates the run's probabilities with it.
What is measured and shown are the keys of config.evaluation, such as
--config.evaluation.positive=defect.
"""

import pathlib
import re

from absl import flags

from vision import cli
from vision.config import default
from vision.config.flags import parse_stage
from vision.config.validate import validate
from vision.errors import UserError
from vision.run.calibration import EVALUATION
from vision.support.files import make_directory

# What may be set for a model that has a config already.
FREE = (
    "evaluation.",
    "parallel.devices",
    "train.eval_batch_size",
    "data.workers",
    "data.resident_gib",
    "data.max_unreadable",
)


def main(argv):
    config, values, words = parse_stage(argv, __doc__, _flags, default)
    if words:
        raise UserError(
            f"unexpected argument '{words[0]}': flags start with --, overrides with --config."
        )
    named = any(re.match(r"--config(=|$)", argument) for argument in argv)
    validate(config)
    from vision import inference
    from vision.evaluation import evaluate
    from vision.evaluation.report import report

    classifier = inference.from_flags(config if named else None, values.workdir, values.bundle)
    config = config if named else _override(classifier.config, config, argv)
    out = make_directory(_directory(values))
    found = evaluate.evaluate(classifier, config, values.data, values.split)
    report.write(out, found, config.evaluation, values.workdir)
    print(*evaluate.describe(found), sep="\n")
    print(f"{out}/report.html, metrics.json, predictions.parquet, MODEL_CARD.md")


def _flags(values):
    flags.DEFINE_string("workdir", "", "directory of a run", flag_values=values)
    flags.DEFINE_string("bundle", "", "directory of an exported bundle", flag_values=values)
    flags.DEFINE_string(
        "data", "", "another source than the config's, such as folder:photos", flag_values=values
    )
    flags.DEFINE_string("split", "", "train, val, test or all", flag_values=values)
    flags.DEFINE_string("out", "", "directory to write to; made if need be", flag_values=values)


def _directory(values):
    """Returns where to write to; raises `UserError` where that is not said, and would be a run's
    own evaluation."""
    if values.out:
        return values.out
    if not values.workdir or values.data or values.split not in ("", "test"):
        raise UserError(
            "where to? Give --out DIRECTORY; only a run's own test split has a place, RUN/evaluation"
        )
    return pathlib.Path(values.workdir, EVALUATION)


def _override(config, given, argv):
    """Returns a model's config with the overrides of the command line: of keys that do not change
    what it is."""
    config = config.copy_and_resolve_references()
    for argument in argv:
        if not (match := re.match(r"--?(?:no)?config\.([\w.]+)", argument)):
            continue
        key = match.group(1)
        if not key.startswith(FREE):
            raise UserError(
                f"--config.{key}: the model says what it is; what may be set here are {', '.join(FREE)}"
            )
        group, _, name = key.rpartition(".")
        config[group][name] = given[group][name]
    return config


if __name__ == "__main__":
    cli.run(main)
