"""How much of the classes an embedding holds, without training the network: a linear probe and k
nearest neighbors.

    python -m vision.evaluation.probe --config configs/transfer_folder.py:photos
    python -m vision.evaluation.probe --workdir runs/pets [--data folder:other] [--out probe.json]

Embeds the training and test splits with the run's best model, or with a config's pretrained
weights, and prints the test accuracy of both. The probe is scikit-learn's logistic regression on
standardized embeddings; its strength of regularization is the best on the validation split.
"""

import json
import pathlib

from absl import flags

from vision import cli, parallel
from vision.config.flags import parse_stage
from vision.errors import UserError
from vision.evaluation.outputs import Forward, batch_size, collect
from vision.metrics import NEIGHBORS, knn_accuracy

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # scikit-learn's C


def main(argv):
    config, values, words = parse_stage(argv, __doc__, _flags)
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if values.k < 1:
        raise UserError(f"--k = {values.k}: it is at least 1")
    if values.out and not pathlib.Path(values.out).parent.is_dir():
        raise UserError(f"--out={values.out}: there is no such folder")
    from vision import inference
    from vision.data.pipeline import open_data

    backbone = inference.from_flags(config, values.workdir)
    c = backbone.config.copy_and_resolve_references()
    c.data.source = values.data or c.data.source
    c.data.image_size = backbone.image_size
    c.data.channels = backbone.channels
    c.data.random_crop_area = ()
    mesh = parallel.make_mesh()
    data = open_data(c, mesh)
    forward = Forward(backbone, mesh)
    found = {
        n: collect(forward, f, batch_size(c.train, mesh), embedded=len(f))
        for n, f in data.loaders.items()
    }
    splits = {name: (outputs.embeddings, outputs.labels) for name, outputs in found.items()}
    linear, strength = linear_probe(*splits["train"], *splits["val"], *splits["test"])
    nearest = knn_accuracy(*splits["train"], *splits["test"], k=values.k)
    print(
        f"{c.data.source}: {data.describe()}; embeddings of {splits['train'][0].shape[1]} numbers"
    )
    print(
        f"linear probe: {linear:.4f} (C = {strength:g})\n{values.k} nearest neighbors: {nearest:.4f}"
    )
    if values.out:
        found = {
            "linear_probe": float(linear),
            "C": strength,
            "nearest_neighbors": nearest,
            "k": values.k,
        }
        pathlib.Path(values.out).write_text(json.dumps(found, indent=1))


def _flags(values):
    flags.DEFINE_string("workdir", "", "directory of a run", flag_values=values)
    flags.DEFINE_string("data", "", "another source than the config's", flag_values=values)
    flags.DEFINE_string("out", "", "JSON file to write the two accuracies to", flag_values=values)
    flags.DEFINE_integer("k", NEIGHBORS, "neighbors", flag_values=values)


def linear_probe(train, train_labels, val, val_labels, test, test_labels):
    """Returns (test accuracy, C) of a logistic regression on embeddings (N, D), with the C that is
    best on val."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit(strength):
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)).fit(
            train, train_labels
        )

    probes = {strength: fit(strength) for strength in STRENGTHS}
    best = max(STRENGTHS, key=lambda strength: probes[strength].score(val, val_labels))
    return probes[best].score(test, test_labels), best


if __name__ == "__main__":
    cli.run(main)
