"""A small ViT on 5,000 real MNIST digits with a long tail, and every method against it.

    python -m vision.main --config configs/longtail_mnist5k.py:plain
    python -m vision.main --config configs/longtail_mnist5k.py:logit_adjustment

Needs no network. 300 images of the digit 0 to learn from, 6 of the digit 9, 836 in all (the profile
"exp", ratio 50); 500 to validate and 1,500 to test, balanced. The methods are those of
`configs/longtail_cifar10.py`; `experiments/long_tail/` has the table.
"""

from configs.longtail_cifar10 import set_method
from vision.config import default


def get_config(method="plain", ratio="50"):
    c = default()
    c.data.source = f"mnist5k?imbalance={ratio}"
    c.data.fractions = (0.6, 0.1, 0.3)
    c.augment.affine = True
    c.augment.rotate = 15.0
    c.augment.shear = 10.0
    c.augment.translate = 0.1
    c.augment.scale = (0.85, 1.15)
    c.model.name = "vit"
    c.model.variant = "nano/7"
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
    c.train.eval_every = 65
    c.checkpoint.metric = "val/balanced_accuracy"
    set_method(c, method)
    return c
