"""A linear probe and k nearest neighbors: how well embeddings separate classes, without training.

    python -m vision.evaluation.probe --config configs/transfer_folder.py:photos
    python -m vision.evaluation.probe --workdir runs/pets [--data folder:other] [--out probe.json]
    python -m vision.evaluation.probe --workdir runs/pets --protocol moco --out probes/pets

Embeds the training and test splits with the run's best model, or with a config's pretrained
weights, and prints the test accuracy of both. The probe is scikit-learn's logistic regression on
standardized embeddings, with the regularization strength that is best on the validation split.

--protocol simclr, moco, byol or mae instead trains a head on random crops and flips, as those
papers' linear evaluation does, in the run directory DIR/probe of --out=DIR. DIR/probe.json has the
accuracies and lists the differences from the paper.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from vision import cli, parallel
from vision.config import default
from vision.config.flags import parse_stage
from vision.errors import UserError, check_choice, check_count
from vision.evaluation.outputs import Forward, batch_size, collect
from vision.evaluation.protocols import LOGISTIC, NAMES, evaluate
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
    centered = c.copy_and_resolve_references()
    centered.data.random_crop_area = ()
    mesh = parallel.make_mesh()
    past = backbone.past if is_same(c.data.source, backbone.config.data.source) else None
    data = open_data(centered, mesh, past=past, encoder=backbone.encoder)
    splits = _embed(Forward(backbone, mesh), data, batch_size(c.train, mesh))
    record = _fit(splits) if values.protocol == LOGISTIC else _train(values, c)
    if record is None:  # interrupted
        return
    record["nearest_neighbors"] = knn_accuracy(*splits["train"], *splits["test"], k=values.k)
    record["k"] = values.k
    width = splits["train"][0].shape[1]
    cli.show(f"{c.data.source}: {data.describe()}; embeddings of {width} numbers")
    print(f"linear probe: {record['linear_probe']:.4f} ({_describe(record)})")
    print(f"{values.k} nearest neighbors: {record['nearest_neighbors']:.4f}")
    if values.out:
        out = pathlib.Path(values.out)
        write_json(out if values.protocol == LOGISTIC else out / "probe.json", record)


def _fit(splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Returns the record of the logistic regression."""
    linear, strength = linear_probe(*splits["train"], *splits["val"], *splits["test"])
    return {"linear_probe": float(linear), "C": strength}


def _train(values: Any, config: ConfigDict) -> dict[str, Any] | None:
    """Trains as the protocol of the flags says; see `vision.evaluation.protocols.evaluate`."""
    weights = values.workdir or config.model.pretrained
    sizes = (values.epochs, values.batch_size)
    return evaluate(values.protocol, config, weights, pathlib.Path(values.out), *sizes)


def _describe(record: dict[str, Any]) -> str:
    """Returns how the linear probe was found."""
    if "C" in record:
        return f"C = {record['C']:g}"
    return f"{record['protocol']}: {'; '.join(record['deviations']) or 'as in the paper'}"


def _embed(forward: Forward, data: Any, size: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns {split: (embeddings float32 (N, D), labels int64 (N,))}, `size` images at a time."""
    splits = {}
    for name, loader in data.loaders.items():
        label = f"embedding {name}"
        outputs = collect(forward, loader, size, embedded=len(loader), label=label)
        splits[name] = (outputs.embeddings, outputs.labels)
    return splits


def _flags(values):
    flags.DEFINE_string("workdir", "", "run directory", flag_values=values)
    flags.DEFINE_string("data", "", "source to use instead of the config's", flag_values=values)
    text = "JSON file to write the two accuracies to; with another --protocol, a directory"
    flags.DEFINE_string("out", "", text, flag_values=values)
    flags.DEFINE_string("protocol", LOGISTIC, ", ".join(NAMES), flag_values=values)
    text = "with a --protocol, passes over the training split; 0 = the paper's"
    flags.DEFINE_integer("epochs", 0, text, flag_values=values)
    text = "with a --protocol, images per step; 0 = the config's"
    flags.DEFINE_integer("batch_size", 0, text, flag_values=values)
    flags.DEFINE_integer("k", NEIGHBORS, "number of neighbors", flag_values=values)


def _check(values, words):
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    check_count("--k", values.k, 1, 10_000)
    check_choice("--protocol", values.protocol, NAMES)
    check_count("--epochs", values.epochs, 0, 100_000)
    check_count("--batch_size", values.batch_size, 0, 2**20)
    if values.protocol != LOGISTIC:
        if not values.out:
            raise UserError(f"--protocol={values.protocol} trains a head: give it a --out=DIR")
        return
    if values.epochs or values.batch_size:
        raise UserError("--epochs and --batch_size need a --protocol that trains, such as simclr")
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
