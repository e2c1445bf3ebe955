"""A small ViT on scikit-learn's digits, as somebody sets it up who has not tuned anything.

    python -m vision.main --config experiments/search/plain.py

The rate is the one that fine-tuning takes, a tenth of what such a network learns well with; there
is no weight decay and no augmentation. It is what the searches of this folder start from.
"""

from vision.config import default


def get_config():
    c = default()
    c.data.source = "digits"
    c.model.name = "vit"
    c.model.variant = "mu/2"
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-4
    c.train.epochs = 20.0
    c.train.batch_size = 64
    c.train.eval_every = 40
    c.log.tensorboard = False
    c.parallel.devices = 1
    return c
