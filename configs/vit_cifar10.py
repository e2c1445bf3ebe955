"""ViT-Ti/4 on CIFAR-10, trained from scratch.

    python -m vision.main --config configs/vit_cifar10.py
    python -m vision.main --config configs/vit_cifar10.py --config.model.dtype=float32    # on a CPU

Not run to the end here, and from no paper's table: a small ViT with the augmentation that DeiT
showed it to need (arXiv:2012.12877, table 9: RandAugment, mixup, CutMix, erasing, stochastic
depth), mean pooling and sin-cos positions (arXiv:2205.01580), 200 epochs.
"""

from vision.config import default


def get_config(variant="Ti/4"):
    c = default()
    c.data.source = "tfds:cifar10"

    c.augment.pad_crop = 4
    c.augment.flip_horizontal = True
    c.augment.randaugment_layers = 2
    c.augment.randaugment_magnitude = 9.0
    c.augment.random_erasing = 0.25
    c.augment.mixup = 0.8
    c.augment.cutmix = 1.0

    c.model.name = "vit"
    c.model.variant = variant
    c.model.dtype = "bfloat16"
    c.model.pool = "mean"
    c.model.positions = "sincos"
    c.model.stochastic_depth = 0.1

    c.objective.label_smoothing = 0.1
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.clip_norm = 1.0
    c.schedule.name = "warmup_cosine"
    c.schedule.warmup = 0.05

    c.train.epochs = 200.0
    c.train.batch_size = 512
    c.train.eval_batch_size = 1024
    return c
