"""From a log to a collection: reads, chooses, writes."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vision.data.pictures import picture
from vision.monitoring.labeling import reasons as worth
from vision.monitoring.labeling.candidates import Gathered, gather
from vision.monitoring.labeling.choice import Pool, Quota, choose, pool, quota
from vision.monitoring.labeling.collection import Item, check_place, copy_image, write_record
from vision.monitoring.labeling.copies import Pictures, find_copies
from vision.monitoring.labeling.tasks import write_tasks
from vision.monitoring.windows import Span
from vision.reference.features import NAMES
from vision.reference.statistics import Reference
from vision.support.directories import replacing_directory
from vision.support.page import render

TEMPLATE = pathlib.Path(__file__).with_name("collection.html")
SHOWN = 48  # pictures of each reason on the page
WORDS = {
    "disagree": "Versions disagree",
    "far": "Far from the reference",
    "drifted": "Drifted",
    "uncertain": "Uncertain",
    "random": "Drawn at random",
}


@dataclasses.dataclass(frozen=True)
class Request:
    """What to collect.

    Attributes:
        bundle: directory of the bundle that was served.
        log: directory of the prediction log.
        out: directory to write to.
        count: images, at most.
        per_class: images of a predicted class, at most; 0 for twice an equal share, or more if
            nothing else is left.
        span: how long a window of drift is.
        history: windows to compare, the latest.
        random: images of these that are drawn at random.
        seed: of the order of images that are equally worth it, and of what is drawn.
    """

    bundle: pathlib.Path
    log: pathlib.Path
    out: pathlib.Path
    count: int
    per_class: int
    span: Span
    history: int
    random: int
    seed: int


def collect(request: Request, report: Callable[[str], object] = print) -> list[str]:
    """Collects images; returns what was done, in a few lines.

    Nothing is written if no image is worth labeling.

    Raises:
        UserError: see `gather` and `check_place`. What was there remains.
    """
    check_place(request.out)
    gathered = gather(request.bundle, request.log, request.span, request.history, report)
    scores = worth.scores(gathered)
    holds = ", ".join(
        f"{(values > worth.NONE).sum():,} {reason}" for reason, values in scores.items()
    )
    if request.random:
        scores[worth.RANDOM] = worth.drawn(len(gathered.candidates), request.random, request.seed)
    bits = (gathered.manifest.config or {}).get("data", {}).get("bits", 0)
    limits = quota(request.count, gathered.candidates.rows.classes, request.per_class)
    places, copies = select(
        scores,
        gathered.candidates.rows.classes,
        gathered.candidates.rows.sketches,
        gathered.reference,
        Pictures(gathered.candidates.files, bits),
        limits,
        request.seed,
    )
    lines = _summary(gathered, holds, copies)
    if not len(places):
        return [*lines, "none is worth labeling: nothing is written"]
    with replacing_directory(request.out) as directory:
        (directory / "images").mkdir()
        items = [_item(gathered, scores, place, directory) for place in places]
        classes = list(gathered.manifest.classes)
        record: dict[str, Any] = {
            "bundle": {
                "directory": str(request.bundle),
                "fingerprint": gathered.manifest.fingerprint,
            },
            "log": str(request.log),
            "classes": classes,
            "asked": request.count,
            "per_class": limits.per_class,
            "strict": limits.strict,
            "reasons": dict(collections.Counter(r for item in items for r in item.reasons)),
        }
        write_record(directory, items, record)
        write_tasks(
            directory,
            request.out.resolve().name,
            items,
            classes,
            gathered.manifest.fingerprint,
        )
        cards = _cards(items, Pictures([directory / item.path for item in items], bits))
        page = render(TEMPLATE, _context(request, items, cards, lines, record))
        (directory / "report.html").write_text(page, "utf-8")
    wanted = f" of the {request.count:,} that were asked for" * (len(items) < request.count)
    counts = ", ".join(
        f"{record['reasons'][reason]:,} {reason}"
        for reason in scores
        if reason in record["reasons"]
    )
    return [*lines, f"{len(items):,} images{wanted}: {counts}"]


def select(
    scores: Mapping[str, np.ndarray],
    classes: np.ndarray,
    sketches: np.ndarray,
    reference: Reference,
    pictures: Any,
    limits: Quota,
    seed: int = 0,
) -> tuple[list[int], int]:
    """Returns (places of the chosen images of N, copies that were left out).

    Args:
        scores: {reason: float64 (N,)}, see `vision.monitoring.labeling.reasons.scores`.
        classes: integers (N,), predicted.
        sketches: (N, 16).
        reference: the bundle's.
        pictures: the N images, see `Pictures`.
        limits: how many are to be chosen.
        seed: orders images of equal score.
    """
    rows = pool(scores, classes, limits, seed)
    is_readable, copies = find_copies(pictures.part(rows))
    kept = np.flatnonzero(is_readable)
    new = {int(row): i for i, row in enumerate(kept)}
    rows = rows[kept]
    images = Pool(
        {reason: values[rows] for reason, values in scores.items()},
        classes[rows],
        sketches[rows],
        {new[row]: {new[other] for other in others} for row, others in copies.items()},
        worth.nearest(sketches[rows], reference.sample),
    )
    chosen = choose(images, limits, seed)
    left_out = set().union(*(images.copies.get(place, set()) for place in chosen))
    return [int(rows[place]) for place in chosen], len(left_out)


def _summary(gathered: Gathered, holds: str, copies: int) -> list[str]:
    gone = f", {gathered.gone:,} deleted since" if gathered.gone else ""
    return [
        f"{len(gathered.candidates):,} images kept{gone}; {len(gathered.alarms)} of "
        f"{gathered.tested} windows alarm",
        f"worth labeling: {holds}; {copies:,} copies of chosen ones left out",
    ]


def _item(
    gathered: Gathered, scores: Mapping[str, np.ndarray], place: int, directory: pathlib.Path
) -> Item:
    candidates = gathered.candidates
    values = candidates.rows.values[place]
    other = candidates.others.get(place)
    return Item(
        copy_image(candidates.files[place], directory),
        candidates.requests[place],
        int(candidates.indices[place]),
        gathered.manifest.classes[candidates.rows.classes[place]],
        float(values[NAMES.index("confidence")]),
        float(values[NAMES.index("entropy")]),
        [reason for reason, values in scores.items() if values[place] > worth.NONE],
        *((other.version, other.label) if other else ("", "")),
    )


def _cards(items, pictures):
    """Returns {name: the page's card} of the items that are shown."""
    shown: collections.Counter = collections.Counter()
    cards = {}
    for place, item in enumerate(items):
        if any(shown[reason] < SHOWN for reason in item.reasons):
            cards[item.name] = {"image": picture(pictures.image(place)), "item": item}
        shown.update(item.reasons)
    return cards


def _context(request, items, cards, lines, record):
    sections = []
    for reason in WORDS:
        members = [item for item in items if reason in item.reasons]
        if members:
            shown = [cards[item.name] for item in members[:SHOWN]]
            sections.append({"title": WORDS[reason], "count": len(members), "cards": shown})
    return {
        "title": request.out.resolve().name,
        "items": items,
        "lines": lines,
        "record": record,
        "sections": sections,
        "by_class": collections.Counter(item.predicted for item in items).most_common(),
    }
