"""A small ViT on scikit-learn's 1,797 digits of 8x8: the shortest real run there is; needs no network.

    python -m vision.main --config configs/digits.py     # NN % in NN s on two CPU cores
"""

from vision.config import default


def get_config():
    c = default()
    c.data.source = "digits"
    c.augment.affine, c.augment.rotate, c.augment.translate = True, 10.0, 0.1
    c.model.name, c.model.variant, c.model.pool = "vit", "nano/2", "mean"
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.clip_norm = 2e-3, 0.05, 1.0
    c.train.epochs, c.train.batch_size, c.train.eval_every = 40.0, 64, 100
    return c
