"""Is this data fit to train on? Checks images and labels and writes a report with pictures.

    python -m vision.audit --data folder:photos --out audits/photos
    python -m vision.audit --data folder:photos --out audits/photos --embeddings runs/pets --apply
    python -m vision.audit --data folder:photos --out audits/photos --apply \\
        --decisions audits/photos/issues.csv

Writes report.html, issues.csv and audit.json. --apply also writes cleaned.csv, the remaining images
with corrected labels, to train on with data.source=csv:audits/photos/cleaned.csv; the data
themselves do not change. --decisions skips the checks and applies the actions that you left in the
`action` column of an issues.csv. The limits of --strict and the thresholds of the checks are keys
of config.audit.
"""

import re

from absl import flags

from vision import cli
from vision.config import default
from vision.config.flags import parse_stage
from vision.config.packages import check_packages
from vision.config.validate import validate
from vision.errors import RunError, UserError
from vision.support.extras import require_stage
from vision.support.lock import locked
from vision.support.memory import keep_freed_memory


def main(argv):
    config, values, words = parse_stage(argv, __doc__, _flags, default)
    if words:
        raise UserError(
            f"unexpected argument '{words[0]}': flags start with --, overrides with --config."
        )
    if not values.data and not any(
        re.match(r"--config(=|$|\.data\.source)", argument) for argument in argv
    ):
        raise UserError(
            "no data to audit: give --data SOURCE, for example --data folder:photos, "
            "or --config FILE"
        )
    if not values.out:
        raise UserError("no directory to write to: give --out DIRECTORY")
    share = values["sample-for-review"].value
    if not 0 <= share <= 1:
        raise UserError(f"--sample-for-review must be in [0, 1], got {share:g}")
    config.data.source = values.data or config.data.source
    validate(config)
    check_packages(config)
    require_stage("the audit", "audit")
    if config.parallel.keep_memory:
        keep_freed_memory()
    if values.decisions and not values.apply:
        raise UserError("--decisions FILE needs --apply: give --apply too")
    with locked(values.out):
        _audit(config, values, share)


def _audit(config, values, share):
    from vision.audit import audit

    if values.decisions:
        lines = audit.decide(config, values.out, values.decisions)
        cli.show(*lines)
        return
    audited = audit.audit(config, values.out, values.embeddings, values.annotations, values.apply)
    cli.show(*audit.describe(audited, values.out))
    if share:
        cli.show(audit.sample(config, audited.images, values.out, share))
    if values.strict and (exceeded := audit.exceeded(audited)):
        raise RunError("--strict: " + "; ".join(exceeded))


def _flags(values):
    def text(name, default_value, meaning):
        flags.DEFINE_string(name, default_value, meaning, flag_values=values)

    def switch(name, meaning):
        flags.DEFINE_bool(name, False, meaning, flag_values=values)

    text("data", "", "source, such as folder:photos; default: the config's")
    text("out", "", "directory to write to; created if needed")
    text(
        "embeddings",
        "auto",
        "pixels, pretrained or a run directory; auto: pretrained if it takes a minute or so",
    )
    switch("apply", "write cleaned.csv")
    text("decisions", "", "an issues.csv with edited actions, for --apply")
    text("annotations", "", "a table of several annotators' labels")
    flags.DEFINE_float(
        "sample-for-review", 0.0, "share of images to list in review.csv", flag_values=values
    )
    switch("strict", "exit with 1 if a limit of config.audit is exceeded")


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
