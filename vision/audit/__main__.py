"""Is this data fit to train on? Looks for what is wrong with images and labels, and writes a report
with pictures.

    python -m vision.audit --data folder:photos --out audits/photos
    python -m vision.audit --data folder:photos --out audits/photos --embeddings runs/pets --apply
    python -m vision.audit --data folder:photos --out audits/photos --apply --decisions
    audits/photos/issues.csv

Writes report.html, issues.csv and audit.json. --apply also writes cleaned.csv, the images that are
left with mended labels, to train on with data.source=csv:audits/photos/cleaned.csv; nothing is
changed in the data themselves. With --decisions, nothing is looked for: what a person has left in
the column `action` of an issues.csv is done. The limits of --strict and what counts as what are the
keys of config.audit.
"""

import re

from absl import flags

from vision import cli
from vision.config import default
from vision.config.flags import parse_stage
from vision.config.validate import validate
from vision.errors import RunError, UserError


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
            "audit what? Give --data SOURCE, for example --data folder:photos, or --config FILE"
        )
    if not values.out:
        raise UserError("where to? Give --out DIRECTORY")
    share = values["sample-for-review"].value
    if not 0 <= share <= 1:
        raise UserError(f"--sample-for-review = {share:g}: it lies in [0, 1]")
    config.data.source = values.data or config.data.source
    validate(config)
    from vision.audit import audit

    if values.decisions:
        if not values.apply:
            raise UserError("--decisions FILE says what --apply does: give --apply too")
        lines = audit.decide(config, values.out, values.decisions)
        print(*lines, sep="\n")
        return
    audited = audit.audit(config, values.out, values.embeddings, values.annotations, values.apply)
    print(*audit.describe(audited, values.out), sep="\n")
    if share:
        print(audit.sample(config, audited.images, values.out, share))
    if values.strict and (exceeded := audit.exceeded(audited)):
        raise RunError("--strict: " + "; ".join(exceeded))


def _flags(values):
    flags.DEFINE_string(
        "data", "", "the source, such as folder:photos; else the config's", flag_values=values
    )
    flags.DEFINE_string("out", "", "directory to write to; made if need be", flag_values=values)
    flags.DEFINE_string(
        "embeddings", "pixels", "pixels, pretrained or a run's directory", flag_values=values
    )
    flags.DEFINE_bool("apply", False, "write cleaned.csv", flag_values=values)
    flags.DEFINE_string(
        "decisions", "", "an issues.csv with edited actions, for --apply", flag_values=values
    )
    flags.DEFINE_string(
        "annotations", "", "a table of several annotators' labels", flag_values=values
    )
    flags.DEFINE_float(
        "sample-for-review", 0.0, "share of images to list in review.csv", flag_values=values
    )
    flags.DEFINE_bool(
        "strict", False, "exit with 1 where a limit of config.audit is exceeded", flag_values=values
    )


if __name__ == "__main__":
    cli.run(main)
