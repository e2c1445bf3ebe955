"""From a log to a collection: reads, chooses, writes."""

import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vision.data.pictures import picture
from vision.errors import UserError
from vision.monitoring.labeling import reasons as worth
from vision.monitoring.labeling.candidates import Gathered, gather
from vision.monitoring.labeling.choice import Pool, Quota, choose, pool, quota
from vision.monitoring.labeling.collection import Item, check_place, copy_image, write_record
from vision.monitoring.labeling.earlier import read_earlier
from vision.monitoring.labeling.screening import Pictures, Screening, draw
from vision.monitoring.labeling.tasks import write_tasks
from vision.monitoring.windows import Span
from vision.reference.features import NAMES
from vision.reference.statistics import Reference
from vision.support.directories import replacing_directory
from vision.support.page import render
from vision.support.progress import waiting

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
        window: as --window gives it: how long a window of drift is.
        span: the same, parsed.
        history: windows to compare, the latest.
        random: images of these that are drawn at random.
        seed: of the order of images that are equally worth it, and of what is drawn.
        earlier: directories of collections whose images are not collected again.
    """

    bundle: pathlib.Path
    log: pathlib.Path
    out: pathlib.Path
    count: int
    per_class: int
    window: str
    span: Span
    history: int
    random: int
    seed: int
    earlier: Sequence[pathlib.Path] = ()


def collect(request: Request, report: Callable[[str], object] = print) -> list[str]:
    """Collects images; returns what was done, in a few lines.

    Nothing is written if no image is worth labeling.

    Raises:
        UserError: see `gather`, `read_earlier` and `check_place`; all chosen images were deleted
            meanwhile. What was there remains.
    """
    check_place(request.out)
    earlier = read_earlier(request.earlier)
    gathered = gather(request, report, earlier.keys)
    scores = worth.scores(gathered)
    holds = ", ".join(
        f"{(values > worth.NONE).sum():,} {reason}" for reason, values in scores.items()
    )
    limits = quota(request.count, gathered.candidates.rows.classes, request.per_class)
    with waiting(f"choosing from {len(gathered.candidates):,} images"):
        places, copies = _choose(request, gathered, earlier, scores, limits)
    lines = _summary(gathered, holds, copies, request.earlier)
    if not places:
        return [*lines, "none is worth labeling: nothing is written"]
    with replacing_directory(request.out) as directory:
        (directory / "images").mkdir()
        items = _items(gathered, scores, places, directory)
        if gone := len(places) - len(items):
            lines.append(f"{gone:,} of the chosen images were deleted before they were copied")
        if not items:
            raise UserError(
                f"--log {request.log}: all {gone:,} chosen images were deleted in the meantime: "
                "give the server more --keep-days"
            )
        reasons = collections.Counter(reason for item in items for reason in item.reasons)
        record = _record(request, gathered, limits, reasons)
        write_record(directory, items, record)
        title = request.out.resolve().name
        write_tasks(directory, title, items, record["classes"], gathered.manifest.fingerprint)
        pictures = Pictures([directory / item.path for item in items], _bits(gathered))
        _write_page(directory, _context(title, items, _cards(items, pictures), lines, record))
        check_place(request.out)  # answers may have come since
    return [*lines, _total(len(items), request.count, reasons)]


def _choose(request, gathered, earlier, scores, limits):
    """Returns what `select` does; adds what is drawn at random to the scores."""
    screening = Screening(Pictures(gathered.candidates.files, _bits(gathered)), earlier)
    if request.random:
        scores[worth.RANDOM] = draw(screening, request.random, request.seed)
    return select(
        scores,
        gathered.candidates.rows.classes,
        gathered.candidates.rows.sketches,
        gathered.reference,
        screening,
        limits,
        request.seed,
        gathered.taken,
    )


def _write_page(directory, context):
    (directory / "report.html").write_text(render(TEMPLATE, context), "utf-8")


def _total(chosen: int, wanted: int, reasons: Mapping[str, int]) -> str:
    counts = ", ".join(f"{reasons[name]:,} {name}" for name in WORDS if name in reasons)
    asked = f" of the {wanted:,} that were asked for" if chosen < wanted else ""
    return f"{chosen:,} images{asked}: {counts}"


def _bits(gathered: Gathered) -> int:
    """Returns the significant bits of 16-bit images, as the model was trained with."""
    return (gathered.manifest.config or {}).get("data", {}).get("bits", 0)


def _record(
    request: Request, gathered: Gathered, limits: Quota, reasons: Mapping[str, int]
) -> dict[str, Any]:
    """Returns what collection.json says besides the images."""
    return {
        "bundle": {
            "directory": str(request.bundle),
            "fingerprint": gathered.manifest.fingerprint,
        },
        "log": str(request.log),
        "classes": list(gathered.manifest.classes),
        "earlier": [str(directory) for directory in request.earlier],
        "asked": request.count,
        "per_class": limits.per_class,
        "strict": limits.strict,
        "reasons": dict(reasons),
    }


def select(
    scores: Mapping[str, np.ndarray],
    classes: np.ndarray,
    sketches: np.ndarray,
    reference: Reference,
    screening: Screening,
    limits: Quota,
    seed: int = 0,
    taken: np.ndarray | None = None,
) -> tuple[list[int], int]:
    """Returns (places of the chosen images of N, copies that were left out).

    Args:
        scores: {reason: float64 (N,)}, see `vision.monitoring.labeling.reasons.scores`.
        classes: integers (N,), predicted.
        sketches: (N, 16).
        reference: the bundle's.
        screening: of the N images; copies of earlier ones are left out.
        limits: how many are to be chosen.
        seed: orders images of equal score.
        taken: (E, 16), sketches of images that earlier collections had.
    """
    rows = _screened(scores, classes, screening, limits, seed)
    place_of = {int(row): place for place, row in enumerate(rows)}
    copies = {
        place: {place_of[other] for other in screening.copies.get(row, ()) if other in place_of}
        for row, place in place_of.items()
    }
    images = Pool(
        {reason: values[rows] for reason, values in scores.items()},
        classes[rows],
        sketches[rows],
        copies,
        worth.nearest(sketches[rows], reference.sample),
        taken,
    )
    chosen = choose(images, limits, seed)
    left_out = set().union(*(copies[place] for place in chosen))
    return [int(rows[place]) for place in chosen], len(left_out) + int(screening.is_again.sum())


def _screened(scores, classes, screening, limits, seed):
    """Returns the places of the images to choose from, int64 (M,), sorted.

    Images that turn out to be unreadable, or copies of earlier ones, take places that others should
    have. If too few are left for a reason, it looks at more of those for which it holds.
    """
    rows = pool(scores, classes, limits, seed)
    while True:
        screening.look(rows)
        is_out = screening.is_out
        left = {name: np.where(is_out, worth.NONE, values) for name, values in scores.items()}
        lacking = {
            name: values
            for name, values in left.items()
            if (values[rows] > worth.NONE).sum() < limits.count
        }
        more = np.union1d(rows, pool(lacking, classes, limits, seed))
        if len(more) == len(rows):
            return rows[~is_out[rows]]
        rows = more


def _summary(
    gathered: Gathered, holds: str, copies: int, earlier: Sequence[pathlib.Path]
) -> list[str]:
    gone = f", {gathered.gone:,} deleted since" if gathered.gone else ""
    if earlier:
        gone += f", {len(gathered.taken):,} more in earlier collections"
    return [
        f"{len(gathered.candidates):,} images kept{gone}; alarms in {len(gathered.alarms)} of "
        f"{gathered.tested} windows",
        f"worth labeling: {holds}; left out as copies of chosen ones"
        f"{' or of earlier ones' if earlier else ''}: {copies:,}",
    ]


def _items(
    gathered: Gathered,
    scores: Mapping[str, np.ndarray],
    places: Sequence[int],
    directory: pathlib.Path,
) -> list[Item]:
    """Copies images; returns those that the server has not deleted meanwhile."""
    items = []
    for place in places:
        with contextlib.suppress(FileNotFoundError):
            path = copy_image(gathered.candidates.files[place], directory)
            items.append(_item(gathered, scores, place, path))
    return items


def _item(gathered: Gathered, scores: Mapping[str, np.ndarray], place: int, path: str) -> Item:
    candidates = gathered.candidates
    values = candidates.rows.values[place]
    other = candidates.others.get(place)
    return Item(
        path,
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


def _context(title, items, cards, lines, record):
    sections = []
    for reason in WORDS:
        members = [item for item in items if reason in item.reasons]
        if members:
            shown = [cards[item.name] for item in members[:SHOWN]]
            sections.append({"title": WORDS[reason], "count": len(members), "cards": shown})
    return {
        "title": title,
        "items": items,
        "lines": lines,
        "record": record,
        "sections": sections,
        "by_class": collections.Counter(item.predicted for item in items).most_common(),
    }
