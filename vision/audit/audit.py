"""The audit from end to end: scan, quality, duplicates, embeddings, agreement, report."""

import collections
import dataclasses
import pathlib
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision.audit import apply, duplicates, power, quality
from vision.audit.images import Images
from vision.audit.issues import Issue, write_issues
from vision.audit.result import Audited
from vision.audit.scan import Scan, scan
from vision.audit.series import KIND as SERIES
from vision.data.findings import Finding
from vision.data.sources import open_splits
from vision.data.splits import split_seed
from vision.errors import UserError
from vision.support.files import filling, make_directory, write_json
from vision.support.progress import waiting
from vision.version import __version__

PACKAGES = ("numpy", "opencv-python-headless", "ImageHash", "scikit-learn", "cleanlab")
_DIGITS = 4  # of data.mean and data.std


def open_images(config: ConfigDict) -> tuple[Images, Sequence[Finding]]:
    """Returns (the images of the splits that the trainer uses, findings about the source)."""
    # Imports JAX, which worker processes do not need.
    from vision.data.pipeline import named_splits

    opened = open_splits(config.data.source, config.data.bits)
    splits, findings = named_splits(config.data, split_seed(config), opened)
    return Images(splits, opened, config.data.source), findings


def audit(
    config: ConfigDict,
    out: pathlib.Path | str,
    embeddings: str = "auto",
    annotations: str = "",
    write_cleaned: bool = False,
) -> Audited:
    """Audits the data of a config, and writes report.html, issues.csv and audit.json.

    Args:
        config: the config; its `data`, `seed` and `audit` are used.
        out: directory to write to; created if needed.
        embeddings: "pixels", "pretrained" or a run directory, see `vision.audit.embed.embed`;
            "auto": as `vision.audit.embed.choose` says.
        annotations: a table of several annotators' labels; "" for none.
        write_cleaned: whether to write cleaned.csv too, see `vision.audit.apply.apply`.

    Raises:
        UserError: the source, the embeddings or the annotations cannot be opened, or `out` cannot
            be written to.
        RunError: a process was killed.
    """
    started = time.monotonic()
    out = make_directory(out)
    _check_embeddings(embeddings)
    agreement = _agreement(annotations)
    apply.parse_kinds(config.audit.apply)  # reports an unknown kind before the scan
    images, findings = open_images(config)
    scanned, copies = _scan(images, config.audit)
    quality_issues = quality.find_quality_issues(images, scanned, config.audit)
    learned = _learn(images, scanned, config, embeddings)
    suggested = [*copies.issues, *quality_issues, *learned.issues]
    issues = apply.settle(images, suggested, config.audit.apply)
    results = _summarize_results(copies, learned, agreement)
    summary = _summarize(images, scanned, issues, results, config)
    summary |= _judge(config.audit, summary, learned)
    applied = _apply(images, issues, learned.issues, out / "cleaned.csv") if write_cleaned else []
    findings = (*findings, *learned.unchecked)
    summary |= {
        "embeddings": learned.embeddings,
        "applied": applied,
        "seconds": round(time.monotonic() - started, 1),
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }
    audited = Audited(
        images,
        scanned,
        issues,
        learned.pairs,
        agreement,
        findings,
        summary,
        applied,
        learned.power,
    )
    _write(audited, out)
    return audited


def _check_embeddings(embeddings):
    if embeddings in ("auto", "pixels", "pretrained"):
        return
    if not (pathlib.Path(embeddings) / "config.json").is_file():
        raise UserError(
            f"--embeddings {embeddings}: give auto, pixels, pretrained or a run directory"
        )


def _agreement(path):
    if not path:
        return None
    from vision.audit import agreement

    return agreement.measure(agreement.read(path))


def _scan(images, c):
    """Returns (`Scan`, `Duplicates`)."""
    scanned = scan(images)
    with waiting("looking for duplicates"):
        return scanned, duplicates.find_duplicates(images, scanned, c)


@dataclasses.dataclass(frozen=True)
class _Learned:
    """The results that follow from embeddings.

    Attributes:
        embeddings: "pixels", "pretrained" or a run directory.
        issues: outliers and wrong labels.
        pairs: `vision.audit.confusable.Pair`s.
        unchecked: findings about classes whose labels cannot be checked, and about series.
        power: how well the embeddings tell the classes apart; None if that cannot be known. If
            they do not, there are neither wrong labels nor pairs.
    """

    embeddings: str
    issues: list[Issue]
    pairs: list
    unchecked: list[Finding]
    power: power.Power | None


def _learn(images, scanned, config, embeddings):
    from vision.audit import confusable, embed, outliers, series, wrong_labels

    if embeddings == "auto":
        embeddings = embed.choose(config, int(scanned.readable.sum()))
    vectors = embed.embed(embeddings, images, config, scanned.readable)
    with waiting("predicting labels by cross-validation"):
        probabilities = wrong_labels.predict(vectors, images, config)
        measured = power.measure(probabilities, images, config.audit)
    pairs = []
    with waiting("looking for outliers and wrong labels"):
        issues = outliers.find_outliers(vectors, images, config.audit)
        if measured is not None and measured.suffices:
            issues += wrong_labels.find_wrong_labels(probabilities, images, config.audit)
            pairs = confusable.find_confusable_pairs(probabilities, images, config.audit)
        unchecked = wrong_labels.unchecked_classes(vectors, images, config)
        unchecked += series.find_series(vectors, images)
    return _Learned(embeddings, issues, pairs, unchecked, measured)


def _summarize(images, scanned, issues, results, config):
    """Returns most of audit.json; `results` is from `_summarize_results`."""
    kinds = collections.Counter(issue.kind for issue in issues)
    train = (images.split == images.names.index("train")) & scanned.readable
    versions = {"vision": __version__, "python": platform.python_version()}
    return {
        "source": config.data.source,
        "seed": config.seed,
        "split_seed": split_seed(config),
        "images": len(images),
        "splits": {name: int((images.split == i).sum()) for i, name in enumerate(images.names)},
        "classes": list(images.classes),
        "counts": {kind: kinds[kind] for kind in apply.KINDS},
        "balance": quality.balance(images),
        **results,
        "statistics": _statistics(scanned, train),
        "audit": config.audit.to_dict(),
        "versions": versions | {name: metadata.version(name) for name in PACKAGES},
    }


def _statistics(scanned: Scan, train: np.ndarray) -> dict[str, Any]:
    """Returns mean and standard deviation of train's channels, and lines for a config."""
    mean, std = scanned.normalization(train) if train.any() else ([], [])
    mean = [round(value, _DIGITS) for value in mean]
    std = [round(value, _DIGITS) for value in std]
    lines = (
        'c.data.normalize = "mean_std"',
        f"c.data.mean = {_tuple(mean)}",
        f"c.data.std = {_tuple(std)}",
    )
    return {"mean": mean, "std": std, "config": lines}


def _tuple(values):
    return "(" + ", ".join(map(str, values)) + ("," if len(values) == 1 else "") + ")"


def _summarize_results(copies, learned, agreement):
    """Returns the part of audit.json about duplicates, confusable classes and agreement."""
    return {
        "duplicates": {
            "groups": len(copies.groups),
            "leaks": copies.leaks,
            "conflicts": copies.conflicts,
            "near": round(copies.near, 4),
            "skipped": copies.skipped,
        },
        "confusable": [dataclasses.asdict(pair) for pair in learned.pairs],
        "agreement": agreement,
    }


def _judge(c, summary, learned):
    """Returns the part of audit.json about limits, and whether the embeddings can be trusted."""
    wrong = [issue for issue in learned.issues if issue.kind == "wrong_label"]
    actionable = sum(bool(issue.action) for issue in wrong)
    trusted = learned.power is not None and learned.power.suffices
    return {
        "power": learned.power and dataclasses.asdict(learned.power),
        "trusted": trusted,
        "limits": limits(c, summary, actionable if trusted else None),
    }


def limits(
    c: ConfigDict, summary: dict[str, Any], wrong_labels: int | None
) -> list[dict[str, Any]]:
    """Compares the results with the limits of `--strict`.

    Args:
        c: config.audit.
        summary: contents of audit.json.
        wrong_labels: number of wrong labels; None if the embeddings cannot tell.

    Returns:
        [{"key", "value", "limit", "kept"}]; the value is None if it is unknown.
    """
    images = summary["images"]
    counts = summary["counts"]
    copies = counts["duplicate"] + counts["near_duplicate"]
    values = {
        "max_imbalance": summary["balance"]["ratio"],
        "max_unreadable": counts["unreadable"] / images,
        "max_duplicates": copies / images,
        "max_leaks": summary["duplicates"]["leaks"] / images,
        "max_wrong_labels": None if wrong_labels is None else wrong_labels / images,
        "min_agreement": summary["agreement"]["fleiss"] if summary["agreement"] else None,
    }
    return [
        {"key": key, "value": value, "limit": c[key], "kept": _is_kept(key, value, c[key])}
        for key, value in values.items()
    ]


def _is_kept(key, value, limit):
    if value is None:
        return True
    return value >= limit if key.startswith("min") else value <= limit


def _apply(images, issues, learned_issues, path):
    """Writes cleaned.csv; returns sentences about what was done."""
    applied = apply.apply(images, apply.decisions(issues), path)
    if left := apply.count_left_for_a_person(images, learned_issues):
        applied.append(
            f"{left:,} labels of test look wrong, and are left for you to check: see issues.csv"
        )
    return applied


def _write(audited, out):
    from vision.audit import report

    with waiting("drawing the report"), filling(out) as folder:
        write_issues(folder / "issues.csv", audited.issues, audited.images)
        write_json(folder / "audit.json", audited.summary)
        report.write(folder / "report.html", audited)


def decide(config: ConfigDict, out: pathlib.Path | str, path: pathlib.Path | str) -> list[str]:
    """Writes cleaned.csv according to a person's decisions, without an audit.

    Args:
        config, out: see `audit`.
        path: an issues.csv whose column `action` may have been edited.

    Returns:
        Sentences about what was done.

    Raises:
        UserError: see `read_decisions` and `apply`.
    """
    out = make_directory(out)
    images, _ = open_images(config)
    return apply.apply(images, apply.read_decisions(path, images), out / "cleaned.csv")


def sample(config: ConfigDict, images: Images, out: pathlib.Path | str, share: float) -> str:
    """Writes review.csv, a stratified share of the images for another person to label.

    Returns:
        A sentence about it.
    """
    from vision.audit import agreement

    rows = agreement.sample(images, share, config.seed)
    path = make_directory(out) / "review.csv"
    agreement.write_review(path, images, rows)
    return f"{path}: {len(rows):,} images to label; pass it to --annotations afterwards"


def describe(audited: Audited, out: pathlib.Path | str) -> list[str]:
    """Returns the lines that the command prints."""
    summary = audited.summary
    sizes = ", ".join(f"{n:,} {name}" for name, n in summary["splits"].items())
    lines = [
        f"{summary['source']}: {summary['images']:,} images ({sizes}) "
        f"of {len(summary['classes']):,} classes"
    ]
    counts = {kind: n for kind, n in summary["counts"].items() if n}
    lines += [f"{n:>8,} {kind}" for kind, n in counts.items()] or ["no issues"]
    if leaks := summary["duplicates"]["leaks"]:
        lines.append(
            f"{leaks:,} of the duplicates are in different splits: "
            "test results are too good until they are removed"
        )
    lines += [
        f"{finding.name} would keep together {finding.detail}"
        for finding in audited.findings
        if finding.kind == SERIES
    ]
    if skipped := summary["duplicates"]["skipped"]:
        lines.append(
            f"too many images look alike: {skipped:,} pairs were not compared for near duplicates"
        )
    if not summary["trusted"]:
        sentence = power.describe(audited.power, summary["embeddings"])
        lines.append(f"labels were not checked: {sentence}")
    if audited.pairs:
        lines.append(f"{len(audited.pairs):,} pairs of classes can hardly be told apart")
    lines += [*summary["statistics"]["config"], *audited.applied]
    lines.append(f"{out}/report.html, issues.csv, audit.json: {summary['seconds']:.0f} s")
    return lines


def exceeded(audited: Audited) -> list[str]:
    """Returns a sentence for each limit that is exceeded."""
    sentences = []
    for limit in audited.summary["limits"]:
        if not limit["kept"]:
            key = limit["key"]
            bound = "at least" if key.startswith("min") else "at most"
            sentences.append(
                f"audit.{key} allows {bound} {limit['limit']:g}, got {limit['value']:.4g}"
            )
    return sentences
