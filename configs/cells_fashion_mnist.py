"""Small recipes on Fashion-MNIST that answer a question each, as a sweep of cells.

    python -m vision.main --config configs/cells_fashion_mnist.py:regularization
    python -m vision.main --config configs/cells_fashion_mnist.py:optimizers
    python -m vision.main --config configs/cells_fashion_mnist.py:batch_and_rate

Each trains the base of a question, a `cnn:small` (94,186 parameters); `CELLS` has the overrides.
All cells, with a table and its intervals:

    python -m experiments.run optimizers
    python -m vision.search --config configs/cells_fashion_mnist.py:optimizers --seeds 0,1,2 \\
        --out runs/optimizers

regularization learns from 500 images of each class, for 150 passes over them, which is when a
network overfits and a regularizer can help; optimizers from all 54,000, for four passes;
batch_and_rate too, in cells of six. Without its cells, batch_and_rate is the base of optimizers.
What was measured here is in experiments/regularization/, optimizers/ and batch_and_rate/.
"""

from vision.config import default
from vision.errors import check_choice

IMAGES = 54_000

# Rates are a factor of about 3 apart. Of the first three, the highest was the best for each
# optimizer, so there is a fourth: a comparison of the best needs a rate that is too high.
RATES = {
    "sgd": (0.03, 0.1, 0.3, 1.0),
    "adamw": (1e-3, 3e-3, 1e-2, 3e-2),
    "muon": (1e-3, 3e-3, 1e-2, 3e-2),
    "lion": (1e-4, 3e-4, 1e-3, 3e-3),
}
# Decoupled decay is multiplied by the rate, so a share of the weights per step needs other values.
DECAY = {"sgd": 5e-4, "adamw": 0.05, "muon": 0.05, "lion": 0.5}
BATCHES = ((64, 0.05), (256, 0.05), (256, 0.1), (256, 0.2), (1024, 0.05), (1024, 0.2), (1024, 0.8))


def _optimizer(name, rate):
    momentum = 0.95 if name == "muon" else 0.9
    b2 = 0.99 if name == "lion" else 0.999
    return {
        "optimizer.name": name,
        "optimizer.learning_rate": rate,
        "optimizer.weight_decay": DECAY[name],
        "optimizer.momentum": momentum,
        "optimizer.b2": b2,
    }


def _batch(size, rate):
    return {
        "train.batch_size": size,
        "train.steps": 6 * IMAGES // size,
        "train.eval_every": 6 * IMAGES // size,
        "optimizer.learning_rate": rate,
    }


CELLS = {
    "regularization": {
        "none": {},
        "label smoothing 0.1": {"objective.label_smoothing": 0.1},
        "mixup 0.2": {"augment.mixup": 0.2},
        "CutMix 1.0": {"augment.cutmix": 1.0},
        "RandAugment 2, 9": {"augment.randaugment_layers": 2, "augment.randaugment_magnitude": 9.0},
    },
    "optimizers": {
        f"{name}, rate {rate:g}": _optimizer(name, rate)
        for name, rates in RATES.items()
        for rate in rates
    },
    "batch_and_rate": {
        f"batch {size}, rate {rate:g}": _batch(size, rate) for size, rate in BATCHES
    },
}


def sweep(question="regularization"):
    yield from CELLS[question].values()


def get_config(question="regularization"):
    check_choice("the question", question, tuple(CELLS))
    c = default()
    c.data.source = "tfds:fashion_mnist"
    c.augment.pad_crop = 2
    c.augment.flip_horizontal = True
    c.model.name = "cnn"
    c.model.variant = "small"
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.1
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 5e-4
    c.schedule.name = "warmup_cosine"
    c.train.batch_size = 128
    c.train.eval_batch_size = 500
    if question == "regularization":
        c.data.labels = "500/class"
        c.train.steps = 150 * 5_000 // 128
    else:
        c.train.steps = 4 * IMAGES // 128
    # Once, at the end: nothing is chosen by the validation split.
    c.train.eval_every = c.train.steps
    return c
