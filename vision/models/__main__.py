"""Lists each architecture's variants: parameters, multiply-adds, accuracies, published weights.

    python -m vision.models                      # all
    python -m vision.models resnet vit           # only these architectures
    python -m vision.models --format csv > models.csv

Parameters are counted with 1,000 classes. GMACs are billions of multiplications in convolutions and
matrix products, for one image of the given size. "paper" is the paper's ImageNet top-1 accuracy,
"best" that of the best weights listed, both in percent.
"""

import csv
import sys
from collections.abc import Sequence

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError, check_choice

FORMATS = ("table", "csv")
COLUMNS = ("model", "variant", "parameters", "GMACs", "size", "paper", "best", "weights")


def main(argv: Sequence[str]) -> None:
    """Prints the table of the architectures named in `argv`, or of all."""
    config, values, names = parse_stage(argv, __doc__, _flags)
    check_choice("--format", values.format, FORMATS)
    if config is not None:
        raise UserError("the table takes no --config: name architectures, such as resnet")
    from vision.models.surgery.costs import rows

    if values.format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row.cells for row in rows(names))
        return
    print("{:<18} {:<15} {:>12} {:>8} {:>5} {:>6} {:>6}  {}".format(*COLUMNS))
    for row in rows(names):
        line = "{:<18} {:<15} {:>12,} {:>8.2f} {:>5} {:>6} {:>6}  {}".format(*row.cells)
        print(line.rstrip(), flush=True)


def _flags(values):
    flags.DEFINE_string("format", "table", "table or csv", flag_values=values)


if __name__ == "__main__":
    cli.run(main)
