"""ResNet-20 on scikit-learn's 1,797 digits of 8x8: the shortest real run; needs no network.

    python -m vision.main --config configs/digits.py

99.1 ± 0.9 % (3 seeds) in 15 s on two CPU cores. 1,258 images to train on, 359 to validate, 180 to
test.
"""

from vision.config import default


def get_config():
    c = default()
    c.data.source = "digits"
    c.augment.affine = True
    c.augment.rotate = 10.0
    c.augment.translate = 0.1
    c.model.name = "resnet"
    c.model.variant = "cifar20"
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.1
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 5e-4
    c.schedule.name = "warmup_cosine"
    c.schedule.warmup = 0.1
    c.train.epochs = 20.0
    c.train.batch_size = 64
    c.train.eval_every = 98
    return c
