"""ViT on 5,000 MNIST digits."""

from vision.config import default


def get_config():
    c = default()
    c.data.source = "mnist5k"
    c.model.name, c.model.variant = "vit", "mu/7"
    c.train.epochs = 2.0
    c.train.batch_size = 125
    return c
