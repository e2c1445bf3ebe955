"""What an audit finds, one `Issue` an image concerned, and the table of them."""

import csv
import dataclasses

from vision.support.files import replacing

COLUMNS = ("file", "split", "label", "kind", "score", "other", "suggestion", "action")


@dataclasses.dataclass(frozen=True)
class Issue:
    """One finding about one image.

    Attributes:
        row: the image's place in `Images`; -1 for what is no image of any split, such as an
            annotation file.
        kind: such as "blank", "duplicate", "wrong_label".
        score: how strong it is, in the unit that the kind's docstring says; higher is worse.
        suggestion: a sentence for a person.
        action: what `--apply` does: "", "drop" or "relabel:CLASS".
        other: the row of another image concerned, such as the one that this is a duplicate of; -1 =
            none.
        name: what it is found by where `row` is -1.
    """

    row: int
    kind: str
    score: float
    suggestion: str
    action: str = ""
    other: int = -1
    name: str = ""


def write_issues(path, issues, images):
    """Writes issues.csv: one line a finding, `COLUMNS`.

    Args:
        path: the file.
        issues: `Issue`s, in the order of the table.
        images: the `vision.audit.images.Images` that their rows are of.
    """
    with replacing(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for issue in issues:
            known = issue.row >= 0
            writer.writerow(
                (
                    images.name(issue.row) if known else issue.name,
                    images.split_of(issue.row) if known else "",
                    images.class_of(issue.row) if known else "",
                    issue.kind,
                    f"{issue.score:.6g}",
                    images.name(issue.other) if issue.other >= 0 else "",
                    issue.suggestion,
                    issue.action,
                )
            )
