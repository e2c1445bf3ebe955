"""Lists every architecture's variants: parameters, multiply-adds, the paper's accuracy, and the
weights that load.

    python -m vision.models                      # all
    python -m vision.models resnet vit           # of these files
    python -m vision.models --format csv > models.csv

Parameters are those with 1,000 classes. GMACs are billions of multiplications in convolutions and
matrix products, of one image at the size given. "paper" is the paper's ImageNet top-1, "best" that
of the best weights listed, in percent.
"""

import csv
import sys

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError, check_choice

FORMATS = ("table", "csv")
COLUMNS = ("model", "variant", "parameters", "GMACs", "size", "paper", "best", "weights")


def main(argv):
    config, values, words = parse_stage(argv, __doc__, _flags)
    check_choice("--format", values.format, FORMATS)
    if config is not None:
        raise UserError("the table takes no --config: name architectures, such as resnet")
    from vision.models.surgery.costs import rows

    found = rows(words)
    if values.format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row.cells for row in found)
        return
    print("{:<18} {:<15} {:>12} {:>8} {:>5} {:>6} {:>6}  {}".format(*COLUMNS))
    for row in found:
        name, variant, parameters, macs, size, paper, best, weights = row.cells
        line = f"{name:<18} {variant:<15} {parameters:>12,} {macs:>8.2f} {size:>5} {paper:>6} {best:>6}  {weights}"
        print(line.rstrip(), flush=True)


def _flags(values):
    flags.DEFINE_string("format", "table", "table or csv", flag_values=values)


if __name__ == "__main__":
    cli.run(main)
