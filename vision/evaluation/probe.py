"""A linear probe and k nearest neighbors: what embeddings tell of the classes, without training.

    python -m vision.evaluation.probe --config configs/transfer_folder.py:photos
    python -m vision.evaluation.probe --workdir runs/pets [--data folder:other] [--out probe.json]

Embeds the training and test splits with the run's best model, or with a config's pretrained
weights, and prints the test accuracy of both. The probe is scikit-learn's logistic regression on
standardized embeddings; the strength of its regularization is the best on the validation split.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from vision import cli, parallel
from vision.config import default
from vision.config.flags import parse_stage
from vision.errors import UserError, check_count
from vision.evaluation.outputs import Forward, batch_size, collect
from vision.metrics import NEIGHBORS, knn_accuracy
from vision.support.files import write_json

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # scikit-learn's C
SMALL = 1_000_000  # numbers in the embeddings, below which the probe is fitted by one thread


def main(argv: Sequence[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    _check(values, words)
    from vision import inference
    from vision.data.pipeline import open_data
    from vision.data.sources import is_same

    parallel.keep_programs((config or default()).compile_cache)
    backbone = inference.from_flags(config, values.workdir)
    c = backbone.config.copy_and_resolve_references()
    c.data.source = values.data or c.data.source
    c.data.image_size = backbone.image_size
    c.data.channels = backbone.channels
    c.data.random_crop_area = ()
    mesh = parallel.make_mesh()
    past = backbone.past if is_same(c.data.source, backbone.config.data.source) else None
    data = open_data(c, mesh, past=past)
    forward = Forward(backbone, mesh)
    splits = _embed(forward, data, batch_size(c.train, mesh))
    linear, strength = linear_probe(*splits["train"], *splits["val"], *splits["test"])
    record = {
        "linear_probe": float(linear),
        "C": strength,
        "nearest_neighbors": knn_accuracy(*splits["train"], *splits["test"], k=values.k),
        "k": values.k,
    }
    width = splits["train"][0].shape[1]
    cli.show(f"{c.data.source}: {data.describe()}; embeddings of {width} numbers")
    print(f"linear probe: {linear:.4f} (C = {strength:g})")
    print(f"{values.k} nearest neighbors: {record['nearest_neighbors']:.4f}")
    if values.out:
        write_json(values.out, record)


def _embed(forward: Forward, data: Any, size: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns {split: (embeddings float32 (N, D), labels int64 (N,))}, `size` images at a time."""
    splits = {}
    for name, loader in data.loaders.items():
        outputs = collect(forward, loader, size, embedded=len(loader))
        splits[name] = (outputs.embeddings, outputs.labels)
    return splits


def _flags(values):
    flags.DEFINE_string("workdir", "", "run directory", flag_values=values)
    flags.DEFINE_string("data", "", "source to use instead of the config's", flag_values=values)
    flags.DEFINE_string("out", "", "JSON file to write the two accuracies to", flag_values=values)
    flags.DEFINE_integer("k", NEIGHBORS, "number of neighbors", flag_values=values)


def _check(values, words):
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    check_count("--k", values.k, 1, 10_000)
    if values.out and not pathlib.Path(values.out).parent.is_dir():
        raise UserError(f"cannot write --out={values.out}: its folder does not exist")


def linear_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    val: np.ndarray,
    val_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
) -> tuple[float, float]:
    """Returns (test accuracy, C) of a logistic regression, with the C that is best on validation.

    Args:
        train: training embeddings, float (N, D).
        train_labels: their classes, int (N,).
        val: validation embeddings, float (M, D).
        val_labels: their classes, int (M,).
        test: test embeddings, float (K, D).
        test_labels: their classes, int (K,).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # what scikit-learn sets threads with

    def fit(strength):
        regression = LogisticRegression(C=strength, max_iter=1000)
        return make_pipeline(StandardScaler(), regression).fit(train, train_labels)

    # The threads of a small product wait for each other for longer than they compute.
    with threadpool_limits(1 if train.size < SMALL else None):
        probes = {strength: fit(strength) for strength in STRENGTHS}
    best = max(STRENGTHS, key=lambda strength: probes[strength].score(val, val_labels))
    return probes[best].score(test, test_labels), best


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
