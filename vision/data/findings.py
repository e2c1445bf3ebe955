"""Findings: what is odd about data when they are opened, so that nothing is dropped silently."""

import dataclasses
from collections.abc import Iterable

from vision.errors import printable

LONGEST = 1_000  # characters of a finding that are shown


@dataclasses.dataclass(frozen=True)
class Finding:
    """One problem of a source, or a fact about it that a person should know.

    Attributes:
        kind: a short plural statement, such as "boxes extend outside their image".
        name: how to find the item: a file, a file and line, a class.
        detail: further information; "" if none.
        lost: True if it means that an image or an object is missing from the source.
    """

    kind: str
    name: str
    detail: str = ""
    lost: bool = False

    def __str__(self):
        text = f"{self.name}: {self.detail}" if self.detail else self.name
        return printable(text, LONGEST)


def summarize(findings: Iterable[Finding], limit: int = 3) -> list[str]:
    """Returns one line per kind, in order of appearance: its count, the kind, the first names.

    A kind is a plural statement, so that a single finding has no count.
    """
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    lines = []
    for kind, members in by_kind.items():
        examples = ", ".join(map(str, members[:limit]))
        more = ", ..." if len(members) > limit else ""
        count = f"{len(members):,} " if len(members) > 1 else ""
        lines.append(f"{count}{kind}: {examples}{more}")
    return lines
