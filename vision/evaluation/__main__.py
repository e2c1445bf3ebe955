"""Evaluates a model: how good is it, and where does it fail?

    python -m vision.evaluation --workdir runs/pets
    python -m vision.evaluation --workdir runs/pets --data folder:new_photos --out evaluations/new
    python -m vision.evaluation --bundle exported/pets --data folder:new_photos \\
        --out evaluations/new
    python -m vision.evaluation --config configs/efficientnet_lite_imagenet.py \\
        --data folder:photos --out lite0/
    python -m vision.evaluation --workdir runs/clip --zero-shot classes --out zero_shot/

Writes a report with pictures, metrics.json and predictions.parquet. The evaluation of a run's own
test split goes into RUN/evaluation, where `python -m vision.evaluation.compare` finds it; any other
needs --out. The temperature that fits the validation split best is stored there too, in
calibration.json, and vision.predict then calibrates the run's probabilities with it. The keys of
config.evaluation choose what is measured and shown, such as --config.evaluation.positive=defect.
--zero-shot evaluates a run with a text tower by prompts for the class names: "classes" means those
of the data, and a --templates file has one prompt per line, such as "a photo of a {}.". Several
processes, started by Slurm, Kubernetes or scripts/launch/local, share the images; process 0 writes
the results.
"""

import pathlib
import re
from collections.abc import Sequence

from absl import flags

from vision import cli
from vision.config import default
from vision.config.flags import parse_stage
from vision.config.validate import validate
from vision.errors import UserError
from vision.run.calibration import EVALUATION
from vision.support.extras import require_stage
from vision.support.memory import keep_freed_memory


def main(argv: Sequence[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags, default)
    assert config is not None  # without --config it is the default
    if words:
        raise UserError(
            f"unexpected argument '{words[0]}': flags start with --, overrides with --config."
        )
    has_config = any(re.match(r"--config(=|$)", argument) for argument in argv)
    validate(config)
    # a bundle's own runtime is checked when it is opened
    require_stage("evaluation", "evaluate")
    if config.parallel.keep_memory:
        keep_freed_memory()
    from vision import distributed, parallel
    from vision.evaluation.evaluate import describe
    from vision.evaluation.stage import evaluate_into

    parallel.keep_programs(config.compile_cache)  # this machine's, not the one that trained
    distributed.start(config.parallel)
    classifier = _open(config if has_config else None, values)
    if not has_config:
        config = _override(classifier.config, config, argv)
    out = pathlib.Path(_directory(values))
    say = cli.show if parallel.is_main_process() else _ignore
    evaluation = evaluate_into(
        out,
        classifier,
        config,
        data=values.data,
        split=values.split,
        workdir="" if values["zero-shot"].value else values.workdir,
        report=say,
    )
    if parallel.is_main_process():
        cli.show(*describe(evaluation))
        cli.show(f"{out}/report.html, metrics.json, predictions.parquet, MODEL_CARD.md")


def _open(config, values):
    """Returns the model that the flags name."""
    zero_shot = str(values["zero-shot"].value)
    if zero_shot or values.templates:
        from vision import matching

        flags_of_prompts = (zero_shot, values.templates, values.bundle, values.data)
        return matching.from_flags(config, values.workdir, *flags_of_prompts)
    from vision import inference

    return inference.from_flags(config, values.workdir, values.bundle)


def _ignore(_: str) -> None:
    """Prints nothing: only process 0 does."""


def _flags(values):
    flags.DEFINE_string("workdir", "", "run directory", flag_values=values)
    flags.DEFINE_string("bundle", "", "directory of an exported bundle", flag_values=values)
    flags.DEFINE_string(
        "data",
        "",
        "source to use instead of the config's, such as folder:photos",
        flag_values=values,
    )
    text = "names of the classes to choose from, such as 'cat,dog'; 'classes' means the data's"
    flags.DEFINE_string("zero-shot", "", text, flag_values=values)
    text = "with --zero-shot, a file with one prompt per line, with {} for the class"
    flags.DEFINE_string("templates", "", text, flag_values=values)
    flags.DEFINE_string("split", "", "train, val, test or all", flag_values=values)
    flags.DEFINE_string("out", "", "directory to write to; created if needed", flag_values=values)


def _directory(values):
    """Returns the directory to write to: --out, or a run's own evaluation.

    Raises:
        UserError: if there is no --out, and this is not the evaluation of a run's own test split.
    """
    if values.out:
        return values.out
    is_own = values.workdir and not values.data and not values["zero-shot"].value
    if not is_own or values.split not in ("", "test"):
        raise UserError(
            "where to? Give --out DIRECTORY; only a run's own test split has a default, "
            "RUN/evaluation"
        )
    return pathlib.Path(values.workdir, EVALUATION)


def _override(config, overrides, argv):
    """Returns a model's config with the overrides of the command line.

    Args:
        config: the model's config.
        overrides: the default config with the overrides.
        argv: the command line.

    Raises:
        UserError: if an override would change what the model is.
    """
    from vision.evaluation.stage import override

    matches = (re.match(r"--?(?:no)?config\.([\w.]+)", argument) for argument in argv)
    return override(config, {m.group(1): overrides[m.group(1)] for m in matches if m})


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
