"""What is odd about data when they are opened: named, counted, and shown, so that nothing is
dropped in silence."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a source, or that a person ought to know of it.

    Attributes:
        kind: a few words that make the plural by themselves: "boxes reach outside of their image".
        name: what a person finds it by: a file, a file and its line, a class.
        detail: what there is to say beside the kind; "" = nothing.
        lost: whether an image or an object is missing from the source on its account.
    """

    kind: str
    name: str
    detail: str = ""
    lost: bool = False

    def __str__(self):
        return f"{self.name}: {self.detail}" if self.detail else self.name


def summarize(findings, some=3):
    """Returns one line for each kind, in the order of appearance: its count, the kind, and the
    first names."""
    kinds = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    lines = []
    for kind, found in kinds.items():
        more = ", ..." if len(found) > some else ""
        lines.append(f"{len(found):,} {kind}: {', '.join(map(str, found[:some]))}{more}")
    return lines
