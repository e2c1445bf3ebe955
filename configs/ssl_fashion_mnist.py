"""A small network on Fashion-MNIST without labels, by three methods, on two CPU cores.

    python -m vision.main --config configs/ssl_fashion_mnist.py:simclr
    python -m vision.main --config configs/ssl_fashion_mnist.py:moco
    python -m vision.main --config configs/ssl_fashion_mnist.py:byol

`experiments/self_supervised/` has its nearest neighbors and linear probes beside untrained ones.
"""

from configs.simclr_cifar10 import set_views
from vision.config import default
from vision.errors import check_choice

# The keys that each method sets.
METHODS = {
    "simclr": {"temperature": 0.2, "hidden": 256},
    "moco": {"queue": 4096, "momentum": 0.99, "hidden": 256},
    "byol": {"momentum": 0.99, "hidden": 512, "width": 128},
}


def get_config(method="simclr", epochs="30"):
    check_choice("the method", method, METHODS)
    c = default()
    c.data.source = "tfds:fashion_mnist"
    c.data.image_size = 28
    c.data.channels = 1
    for section in (c.augment, c.strong):  # no colors to change
        set_views(section, area=(0.2, 1.0), jitter=(0.4, 0.4, 0.0, 0.0))
        section.grayscale = 0.0

    c.model.name = "cnn"
    c.model.variant = "small"

    c.objective.name = method
    for name, value in METHODS[method].items():
        c.objective.options[name] = value

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 1e-4
    c.schedule.name = "warmup_cosine"

    c.train.epochs = float(epochs)
    c.train.batch_size = 256
    c.train.eval_batch_size = 1000
    c.train.eval_every = 1055  # five epochs
    c.checkpoint.metric = "val/step"
    return c
