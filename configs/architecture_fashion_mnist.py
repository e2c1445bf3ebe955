"""Mobile networks for 10,000 images of Fashion-MNIST: one by its name, or a supernet of a space.

    python -m vision.main --config configs/architecture_fashion_mnist.py
    python -m vision.main --config configs/architecture_fashion_mnist.py:v3
    python -m vision.main --config configs/architecture_fashion_mnist.py:c16-w16e3-w32d2k5e4s2-h128
    python -m vision.main --config configs/architecture_fashion_mnist.py:supernet --workdir runs/all
    python -m vision.search.architecture --workdir runs/all --cost latency \\
        --budget mobilenet:small --out searches/all

The first trains MobileNetV3-small, the second and third a `mobile_space`, the fourth all networks
of `SPACE` at once, among which the last searches for the best that is as fast as
MobileNetV3-small. All see the same 10,000 images of 28 x 28 pixels for 20 epochs.

`experiments/architecture_search/` has the accuracies. TFDS prepares the 60,000 + 10,000 images once
(31 MB), or --config.data.source=idx:DIRECTORY reads the four published files. 6,000 images validate
and 10,000 test.
"""

from vision.config import default

# Maps of 14, 7 and 4 pixels. 165,888 networks of 0.7 to 7.3 million multiply-adds; those of
# MobileNetV3-small are 2.1 million.
SPACE = "-".join(
    (
        "c16s2",
        "w16.24d1.2k3.5.7e2.4se0.1",
        "w24.32.40d1.2.3k3.5.7e2.4s2se0.1",
        "w48.64d1.2k3.5e2.4s2se0.1",
        "h192",
    )
)


def get_config(network="mobilenet"):
    c = default()
    c.data.source = "tfds:fashion_mnist"
    c.data.image_size = 28
    c.data.channels = 1
    c.data.limit = 10_000
    c.augment.pad_crop = 2
    c.augment.flip_horizontal = True
    c.model.name = "mobile_space"
    c.model.variant = network
    if network == "mobilenet":
        c.model.name = "mobilenet"
        c.model.variant = "small"
    if network in ("space", "supernet"):
        c.model.variant = SPACE
    if network == "supernet":
        c.objective.name = "supernet"
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.1
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 1e-4
    c.optimizer.clip_norm = 1.0
    c.schedule.name = "warmup_cosine"
    c.train.epochs = 20.0
    c.train.batch_size = 64
    c.train.eval_batch_size = 500
    return c
