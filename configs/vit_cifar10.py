"""ViT-Ti/4 on CIFAR-10, trained from scratch.

    python -m vision.main --config configs/vit_cifar10.py                                 # not run to the end here
    python -m vision.main --config configs/vit_cifar10.py --config.model.dtype=float32    # on a CPU

No paper's table: a small ViT with the augmentation that DeiT showed it to need (arXiv:2012.12877, table 9: RandAugment,
mixup, CutMix, erasing, stochastic depth), mean pooling and sin-cos positions (arXiv:2205.01580), 200 epochs.
"""

from vision.config import default


def get_config(variant="Ti/4"):
    c = default()
    c.data.source = "tfds:cifar10"

    c.augment.pad_crop = 4
    c.augment.flip_horizontal = True
    c.augment.randaugment_layers, c.augment.randaugment_magnitude = 2, 9.0
    c.augment.random_erasing = 0.25
    c.augment.mixup, c.augment.cutmix = 0.8, 1.0

    c.model.name, c.model.variant = "vit", variant
    c.model.dtype = "bfloat16"
    c.model.pool, c.model.positions = "mean", "sincos"
    c.model.stochastic_depth = 0.1

    c.objective.label_smoothing = 0.1
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "adamw", 1e-3, 0.05
    c.optimizer.clip_norm = 1.0
    c.schedule.name, c.schedule.warmup = "warmup_cosine", 0.05

    c.train.epochs, c.train.batch_size, c.train.eval_batch_size = 200.0, 512, 1024
    return c
