"""Fashion-MNIST with few labels on two CPU cores: FixMatch and its relatives beside labels alone.

    python -m vision.main --config configs/fixmatch_fashion_mnist.py:250
    python -m vision.main --config configs/fixmatch_fashion_mnist.py:40:free
    python -m vision.main --config configs/fixmatch_fashion_mnist.py:250:supervised

LABELS:METHOD as in `configs/fixmatch_cifar10.py`: 40, 250 and 4000 are 4, 25 and 400 labels per
class, `--config.data.labels_seed` draws others. "supervised" has the same labels, network and
number of steps, without unlabeled images, and every method the weak augmentation of its labeled
images. 54,000 training images, 6,000 with their labels to validate, 10,000 to test.

`experiments/fixmatch/` has the accuracies. No paper has figures for this network and length.
"""

from configs.fixmatch_cifar10 import set_method
from vision.config import default


def get_config(labels="250", method="fixmatch"):
    c = default()
    c.data.source = "tfds:fashion_mnist"
    c.data.image_size = 28
    c.data.channels = 1
    c.data.val_fraction = 0.1

    c.augment.pad_crop = 2
    c.augment.flip_horizontal = True

    c.model.name = "cnn"
    c.model.variant = "small"

    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.03
    c.optimizer.momentum = 0.9
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 5e-4
    c.optimizer.ema = 0.99
    c.schedule.name = "cosine7_16"
    c.schedule.warmup = 0.0

    c.train.steps = 2400
    c.train.batch_size = 16
    c.train.eval_batch_size = 500
    c.train.eval_every = 600
    # The best of several by the validation split would use 6,000 labels more.
    c.checkpoint.metric = "val/step"
    set_method(c, labels, method)
    return c
