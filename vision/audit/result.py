"""The result of an audit, which the report shows."""

import dataclasses
from typing import Any

from vision.audit.confusable import Pair
from vision.audit.images import Images
from vision.audit.issues import Issue
from vision.audit.power import Power
from vision.audit.scan import Scan
from vision.data.findings import Finding


@dataclasses.dataclass(frozen=True)
class Audited:
    """The result of an audit.

    Attributes:
        images: the images.
        scan: their scan.
        issues: the issues, leaks first.
        pairs: pairs of classes that can hardly be told apart.
        agreement: agreement of the annotators, see `vision.audit.agreement.measure`; None if there
            is only one.
        findings: findings about the source.
        summary: contents of audit.json.
        applied: sentences about what was done; empty if nothing was.
        power: how well the embeddings tell the classes apart; None if no label was predicted.
    """

    images: Images
    scan: Scan
    issues: list[Issue]
    pairs: list[Pair]
    agreement: dict[str, Any] | None
    findings: tuple[Finding, ...]
    summary: dict[str, Any]
    applied: list[str]
    power: Power | None
