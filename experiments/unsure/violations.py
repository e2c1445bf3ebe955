"""How often are promises about unsure answers broken? Many divisions of the same outputs.

    python -m vision.evaluation --workdir RUN --split val --out out/val
    python -m vision.evaluation --workdir RUN --split test --out out/test
    python -m experiments.unsure.violations out/val out/test [--validation 2000] [--draws 500]

The images of the evaluations, none of which the model has learned from, are divided at random into
validation images, which choose a threshold, and test images, which say what came of it. Prints for
each promise how often it was possible, the share of images that were answered, their precision, and
how often that was below the promise: at most 5 % may be (more are measured if the test images are
few, since their own precision varies too). Beside it the same for the threshold that a measured
precision would choose, without a bound. With --probabilities FILE.npz the outputs are those of any
model: `p`, float (N, C), and `y`, int (N,).
"""

import argparse
import pathlib

import numpy as np

from vision.errors import UserError
from vision.evaluation.measures import selective
from vision.inference import softmax
from vision.reference.unsure import PRECISION, Requirement

PROMISES = (0.9, 0.95, 0.98, 0.99)
COVERAGES = (0.9, 0.95, 0.99)


def read(folders: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (log probabilities float64 (N, C), labels int64 (N,)) of some evaluations."""
    import pyarrow.parquet

    logits = []
    labels = []
    for folder in folders:
        table = pyarrow.parquet.read_table(pathlib.Path(folder, "predictions.parquet"))
        probabilities = np.stack(table["probabilities"].to_pylist()).astype(np.float64)
        logits.append(np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)))
        labels.append(table["label_index"].to_numpy())
    return np.concatenate(logits), np.concatenate(labels).astype(np.int64)


def divisions(logits: np.ndarray, labels: np.ndarray, validation: int, draws: int) -> list:
    """Returns [(evidence of the validation images, indices of the test images)]."""
    results = []
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(len(labels))
        val = order[:validation]
        about = {"split": "val", "source": "a division", "step": None}
        evidence = selective.measure(logits[val], labels[val], 1.0, **about)
        results.append((evidence, order[validation:]))
    return results


def naive_threshold(table: dict, precision: float) -> float | None:
    """Returns the threshold of most answers whose measured precision is enough; None if none is."""
    shares = np.array(table["right"]) / np.array(table["answered"])
    rows = np.flatnonzero(shares >= precision)
    return table["threshold"][rows[-1]] if len(rows) else None


def precision_row(results: list, top: np.ndarray, right: np.ndarray, precision: float) -> str:
    """Returns the line of a promised precision."""
    answered = []
    kept = []
    naive = []
    for evidence, test in results:
        least = naive_threshold(evidence.contents[PRECISION], precision)
        if least is not None and (top[test] >= least).any():
            naive.append(right[test][top[test] >= least].mean())
        row = evidence.row_of(precision)
        if row is None:
            continue
        is_answered = top[test] >= evidence.contents[PRECISION]["threshold"][row]
        answered.append(is_answered.mean())
        if is_answered.any():
            kept.append(right[test][is_answered].mean())
    possible = f"{100 * len(answered) / len(results):.0f} %"
    unbounded = _broken(naive, results, precision)
    if not kept:
        return f"| precision={precision} | {possible} | | | | {unbounded} |"
    return (
        f"| precision={precision} | {possible} | {100 * np.mean(answered):.1f} % | "
        f"{100 * np.mean(kept):.2f} % | {_broken(kept, results, precision)} | {unbounded} |"
    )


def _broken(values, results, promised):
    broken = sum(value < promised for value in values)
    return f"{100 * broken / len(results):.1f} %"


def coverage_row(results: list, probabilities: np.ndarray, labels: np.ndarray, level: float) -> str:
    """Returns the line of a promised coverage."""
    hits = []
    sizes = []
    for evidence, test in results:
        try:
            rule = evidence.rule_of(Requirement("coverage", level))
        except UserError:
            continue
        members = rule.sets(probabilities[test])
        hits.append(members[np.arange(len(test)), labels[test]].mean())
        sizes.append(members.sum(1).mean())
    if not hits:
        return f"| coverage={level} | 0 % | | |"
    return (
        f"| coverage={level} | {100 * len(hits) / len(results):.0f} % | "
        f"{100 * np.mean(hits):.2f} ± {100 * np.std(hits):.2f} % | {np.mean(sizes):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("evaluations", nargs="*")
    parser.add_argument("--probabilities", default="")
    parser.add_argument("--validation", type=int, default=0, help="images; 0 = half")
    parser.add_argument("--draws", type=int, default=500)
    values = parser.parse_args()
    if values.probabilities:
        arrays = np.load(values.probabilities)
        logits = np.log(np.maximum(arrays["p"].astype(np.float64), np.finfo(np.float32).tiny))
        labels = arrays["y"].astype(np.int64)
    else:
        logits, labels = read(values.evaluations)
    probabilities = softmax(logits)
    right = probabilities.argmax(1) == labels
    validation = values.validation or len(labels) // 2
    print(
        f"{len(labels):,} images, {100 * right.mean():.2f} % right; {validation:,} choose, ", end=""
    )
    print(f"{len(labels) - validation:,} test, {values.draws} divisions\n")
    results = divisions(logits, labels, validation, values.draws)
    print("| promise | possible | answered | right of these | broken | broken without a bound |")
    print("|---|---|---|---|---|---|")
    for precision in PROMISES:
        print(precision_row(results, probabilities.max(1), right, precision))
    print("\n| promise | possible | sets with the true class | classes in a set |")
    print("|---|---|---|---|")
    for level in COVERAGES:
        print(coverage_row(results, probabilities, labels, level))


if __name__ == "__main__":
    main()
