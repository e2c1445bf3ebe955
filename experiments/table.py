"""Tables of measurements: CSV files that a script brings up to date, and cells of README.md."""

import csv
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence

from vision.support.files import replacing


def read_rows(file: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file; [] if the file is missing."""
    if not file.is_file():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def write_rows(
    file: pathlib.Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]
) -> None:
    """Writes a CSV file, in the place of what was there."""
    with replacing(file, newline="") as lines:
        writer = csv.DictWriter(lines, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def mean_and_spread(values: Sequence[float]) -> str:
    """Returns "MEAN ± SD (N)", with the standard deviation over seeds; "MEAN (1 seed)" of one."""
    mean = f"{statistics.mean(values):.2f}"
    if len(values) == 1:
        return f"{mean} (1 seed)"
    return f"{mean} ± {statistics.stdev(values):.2f} ({len(values)})"
