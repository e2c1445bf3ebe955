"""Masked autoencoder on Fashion-MNIST, then fine-tuning with few labels, on two CPU cores.

    python -m vision.main --config configs/mae_fashion_mnist.py --workdir runs/mae
    python -m vision.main --config configs/mae_fashion_mnist.py:finetune:1%:runs/mae
    python -m vision.main --config configs/mae_fashion_mnist.py:scratch:1%

The first learns from the 54,000 training images without their labels (He et al. 2021,
arXiv:2111.06377). The others train the same network with the labels of 1 % of them, 540 images,
once from what the first has learned and once from nothing. `--config.data.labels_seed` draws
others.
"""

from vision.config import default
from vision.errors import check_choice

MODES = ("pretrain", "finetune", "scratch")


def get_config(mode="pretrain", labels="1%", run="runs/mae"):
    check_choice("the first argument", mode, MODES)
    c = default()
    c.data.source = "tfds:fashion_mnist"
    c.data.image_size = 28
    c.data.channels = 1
    c.augment.random_resized_crop = True
    c.augment.flip_horizontal = True
    c.model.name = "vit"
    c.model.variant = "nano/4"
    c.model.pool = "mean"
    c.model.positions = "sincos"
    c.optimizer.name = "adamw"
    c.optimizer.weight_decay = 0.05
    c.schedule.name = "warmup_cosine"
    if mode == "pretrain":
        _set_pretraining(c)
        return c
    c.data.labels = labels
    c.augment.mixup = 0.8
    c.augment.cutmix = 1.0
    c.objective.label_smoothing = 0.1
    c.model.stochastic_depth = 0.1
    c.optimizer.learning_rate = 1e-3
    c.schedule.warmup = 0.1
    c.train.steps = 1500
    c.train.batch_size = 64
    c.train.eval_every = 250
    if mode == "finetune":
        c.model.pretrained = run
        c.transfer.new_head = True
        c.transfer.layer_decay = 0.75
    return c


def _set_pretraining(c):
    c.augment.crop_area = (0.2, 1.0)
    c.objective.name = "mae"
    c.objective.options.decoder_width = 64
    c.objective.options.decoder_depth = 2
    c.objective.options.decoder_heads = 4
    c.optimizer.learning_rate = 2e-3
    c.optimizer.b2 = 0.95
    c.schedule.warmup = 0.1
    c.train.epochs = 40.0
    c.train.batch_size = 256
    c.train.eval_every = 844
    c.checkpoint.metric = "val/step"
