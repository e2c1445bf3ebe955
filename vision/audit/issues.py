"""The issues that an audit reports, each about one image, and their table."""

import dataclasses
import pathlib
from collections.abc import Sequence

from vision.audit.images import Images
from vision.support.cells import Writer
from vision.support.files import replacing

COLUMNS = ("file", "split", "label", "kind", "score", "other", "suggestion", "action")


@dataclasses.dataclass(frozen=True)
class Issue:
    """One problem with one image.

    Attributes:
        row: row of the image in `Images`; -1 for something that is not an image of any split, such
            as an annotation file.
        kind: kind of problem, such as "blank", "duplicate", "wrong_label".
        score: severity, in the unit that the function for its kind documents; higher is worse.
        suggestion: a sentence for a person.
        action: what `--apply` does: "", "drop" or "relabel:CLASS".
        other: row of another image involved, such as the original of a duplicate; -1 for none.
        name: name of the thing if `row` is -1.
    """

    row: int
    kind: str
    score: float
    suggestion: str
    action: str = ""
    other: int = -1
    name: str = ""


def write_issues(path: pathlib.Path | str, issues: Sequence[Issue], images: Images) -> None:
    """Writes issues.csv: one line per issue, with `COLUMNS`.

    Args:
        path: file to write.
        issues: issues in the order of the table.
        images: the images that their rows refer to.
    """
    with replacing(path, newline="") as file:
        writer = Writer(file)
        writer.writerow(COLUMNS)
        for issue in issues:
            is_image = issue.row >= 0
            cells = (
                images.name(issue.row) if is_image else issue.name,
                images.split_of(issue.row) if is_image else "",
                images.class_of(issue.row) if is_image else "",
                issue.kind,
                f"{issue.score:.6g}",
                images.name(issue.other) if issue.other >= 0 else "",
                issue.suggestion,
                issue.action,
            )
            writer.writerow(cells)
