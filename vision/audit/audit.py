"""The audit from end to end: scan, quality, duplicates, embeddings, what they show, agreement,
report."""

import collections
import concurrent.futures
import dataclasses
import pathlib
import platform
import time
from importlib import metadata

from vision import __version__
from vision.audit import apply, duplicates, quality
from vision.audit.images import Images
from vision.audit.issues import write_issues
from vision.audit.scan import scan
from vision.data.sources import open_splits
from vision.errors import RunError, UserError
from vision.support.files import make_directory, write_json

PACKAGES = ("numpy", "opencv-python-headless", "ImageHash", "scikit-learn", "cleanlab")
_DIGITS = 4  # of data.mean and data.std


@dataclasses.dataclass(frozen=True)
class Audited:
    """What an audit found.

    Attributes:
        images: `vision.audit.images.Images`.
        scan: its `vision.audit.scan.Scan`.
        issues: list of `Issue`, leaks first.
        pairs: classes that can hardly be told apart, `vision.audit.confusable.Pair`s.
        agreement: of the annotators, as `vision.audit.agreement.measure` says it; None where there
            is one only.
        findings: of the source.
        summary: what audit.json says.
        applied: sentences on what was done; empty where nothing was.
    """

    images: Images
    scan: object
    issues: list
    pairs: list
    agreement: dict | None
    findings: tuple
    summary: dict
    applied: list


def open_images(config):
    """Returns (`Images`, findings) of the splits that the trainer uses."""
    # imports JAX, of which worker processes need nothing
    from vision.data.pipeline import named_splits

    opened = open_splits(config.data.source)
    splits, findings = named_splits(config.data, config.seed, opened)
    return Images(splits, opened, config.data.source), findings


def audit(config, out, embeddings="pixels", annotations="", mend=False):
    """Audits the data of a config, and writes report.html, issues.csv and audit.json into a
    directory.

    Args:
        config: its `data`, `seed` and `audit` count.
        out: the directory; made if need be.
        embeddings: "pixels", "pretrained" or the directory of a run, see
            `vision.audit.embed.embed`.
        annotations: a table of several annotators' labels; "" = none.
        mend: also writes cleaned.csv, see `vision.audit.apply.apply`.

    Returns:
        `Audited`.

    Raises:
        UserError: the source, the embeddings or the annotations cannot be opened, or `out` cannot
            be written to.
        RunError: a process was killed.
    """
    started = time.monotonic()
    out = make_directory(out)
    _check_embeddings(embeddings)
    agreement = _agreement(annotations)
    # an unknown kind is better found now than after the scan
    apply.settle(None, [], config.audit.apply)
    images, findings = open_images(config)
    c = config.audit
    try:
        scanned = scan(images)
        found = duplicates.find(images, scanned, c)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise RunError(
            "a process that read images was killed, as happens where memory runs out"
        ) from error
    issues = [*found.issues, *quality.find(images, scanned, c)]
    further, pairs, unchecked = _learned(images, scanned, config, embeddings)
    findings = (*findings, *unchecked)
    issues = apply.settle(images, issues + further, c.apply)
    summary = _summarize(images, scanned, issues, found, pairs, agreement, config)
    wrong = [issue for issue in further if issue.kind == "wrong_label"]
    sure = sum(bool(issue.action) for issue in wrong)
    summary["trusted"] = bool(sure or not wrong)
    summary["limits"] = limits(c, summary, sure if summary["trusted"] else None)
    applied = apply.apply(images, apply.decisions(issues), out / "cleaned.csv") if mend else []
    if mend and (left := apply.left_to_a_person(images, further)):
        applied.append(
            f"{left:,} labels of test look wrong, and are left for a person to look at: see issues.csv"
        )
    summary |= {
        "embeddings": embeddings,
        "applied": applied,
        "seconds": round(time.monotonic() - started, 1),
    }
    summary["findings"] = [dataclasses.asdict(finding) for finding in findings]
    audited = Audited(images, scanned, issues, pairs, agreement, findings, summary, applied)
    _write(audited, out)
    return audited


def _check_embeddings(embeddings):
    if (
        embeddings not in ("pixels", "pretrained")
        and not (pathlib.Path(embeddings) / "config.json").is_file()
    ):
        raise UserError(
            f"--embeddings {embeddings}: give pixels, pretrained or the directory of a run"
        )


def _agreement(path):
    if not path:
        return None
    from vision.audit import agreement

    return agreement.measure(agreement.read(path))


def _learned(images, scanned, config, embeddings):
    """Returns (issues, pairs of classes, findings): what the embeddings show, and what they
    cannot."""
    from vision.audit import confusable, embed, outliers, wrong_labels

    vectors = embed.embed(embeddings, images, config, scanned.readable)
    found = outliers.find(vectors, images, config.audit)
    probabilities = wrong_labels.predict(vectors, images, config)
    found += wrong_labels.find(probabilities, images, config.audit)
    pairs = confusable.find(probabilities, images, config.audit)
    return found, pairs, wrong_labels.left_out(vectors, images, config)


def _summarize(images, scanned, issues, found, pairs, agreement, config):
    """Returns most of what audit.json says."""
    balance = quality.balance(images)
    kinds = collections.Counter(issue.kind for issue in issues)
    train = (images.split == images.names.index("train")) & scanned.readable
    mean, std = scanned.normalization(train) if train.any() else ([], [])
    mean, std = ([round(value, _DIGITS) for value in values] for values in (mean, std))
    lines = (
        'c.data.normalize = "mean_std"',
        f"c.data.mean = {_tuple(mean)}",
        f"c.data.std = {_tuple(std)}",
    )
    return {
        "source": config.data.source,
        "seed": config.seed,
        "images": len(images),
        "splits": {name: int((images.split == i).sum()) for i, name in enumerate(images.names)},
        "classes": list(images.classes),
        "counts": {kind: kinds[kind] for kind in apply.KINDS},
        "balance": balance,
        "duplicates": {
            "groups": len(found.groups),
            "leaks": found.leaks,
            "conflicts": found.conflicts,
            "near": round(found.near, 4),
            "skipped": found.skipped,
        },
        "confusable": [dataclasses.asdict(pair) for pair in pairs],
        "agreement": agreement,
        "statistics": {"mean": mean, "std": std, "config": lines},
        "audit": config.audit.to_dict(),
        "versions": {"vision": __version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in PACKAGES},
    }


def limits(c, summary, wrong_labels):
    """Returns what `--strict` compares: [{"key", "value", "limit", "kept"}], the value None where
    it is not known.

    Args:
        c: config.audit.
        summary: what audit.json says.
        wrong_labels: how many there are; None where the embeddings tell too little to know.
    """
    images = summary["images"]
    counts = summary["counts"]
    values = {
        "max_imbalance": summary["balance"]["ratio"],
        "max_unreadable": counts["unreadable"] / images,
        "max_duplicates": (counts["duplicate"] + counts["near_duplicate"]) / images,
        "max_leaks": summary["duplicates"]["leaks"] / images,
        "max_wrong_labels": None if wrong_labels is None else wrong_labels / images,
        "min_agreement": summary["agreement"]["fleiss"] if summary["agreement"] else None,
    }
    found = []
    for key, value in values.items():
        kept = value is None or (value >= c[key] if key.startswith("min") else value <= c[key])
        found.append({"key": key, "value": value, "limit": c[key], "kept": kept})
    return found


def _tuple(values):
    return "(" + ", ".join(map(str, values)) + ("," if len(values) == 1 else "") + ")"


def _write(audited, out):
    from vision.audit import report

    try:
        write_issues(out / "issues.csv", audited.issues, audited.images)
        write_json(out / "audit.json", audited.summary)
        report.write(out / "report.html", audited)
    except OSError as error:
        raise UserError(f"cannot write to --out {out}: {error.strerror}") from error


def decide(config, out, path):
    """Writes cleaned.csv by what a person decided; returns sentences. Nothing is looked for.

    Args:
        config, out: as `audit`.
        path: an issues.csv whose column `action` may have been edited.

    Raises:
        UserError: see `read_decisions` and `apply`.
    """
    out = make_directory(out)
    images, _ = open_images(config)
    return apply.apply(images, apply.read_decisions(path, images), out / "cleaned.csv")


def sample(config, images, out, share):
    """Writes review.csv, a stratified share of the images for another person to label; returns a
    sentence."""
    from vision.audit import agreement

    rows = agreement.sample(images, share, config.seed)
    path = make_directory(out) / "review.csv"
    agreement.write_review(path, images, rows)
    return f"{path}: {len(rows):,} images to label; give it back with --annotations"


def describe(audited, out):
    """Returns the lines that the command prints."""
    summary = audited.summary
    sizes = ", ".join(f"{n:,} {name}" for name, n in summary["splits"].items())
    lines = [
        f"{summary['source']}: {summary['images']:,} images ({sizes}) of {len(summary['classes']):,} classes"
    ]
    counts = {kind: n for kind, n in summary["counts"].items() if n}
    lines += [f"{n:>8,} {kind}" for kind, n in counts.items()] or ["nothing was found"]
    if leaks := summary["duplicates"]["leaks"]:
        lines.append(
            f"{leaks:,} of the duplicates lie in different splits: the test says too much until they are gone"
        )
    if skipped := summary["duplicates"]["skipped"]:
        lines.append(
            f"so many images look alike that {skipped:,} pairs were not compared for near duplicates"
        )
    if audited.pairs:
        lines.append(f"{len(audited.pairs):,} pairs of classes can hardly be told apart")
    lines += [*summary["statistics"]["config"], *audited.applied]
    lines.append(f"{out}/report.html, issues.csv, audit.json: {summary['seconds']:.0f} s")
    return lines


def exceeded(audited):
    """Returns a sentence for each limit that is not kept."""
    found = []
    for limit in audited.summary["limits"]:
        if not limit["kept"]:
            least = "at least " if limit["key"].startswith("min") else ""
            found.append(
                f"audit.{limit['key']} is {limit['value']:.4g}, allowed is {least}{limit['limit']:g}"
            )
    return found
