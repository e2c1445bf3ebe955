"""ViT on ImageNet (ILSVRC 2012), after Beyer et al. 2022 (arXiv:2205.01580).

    python -m vision.main --config configs/vit_imagenet.py            # 90 epochs: paper 76.5 %
    python -m vision.main --config configs/vit_imagenet.py:S/16:300   # 300 epochs: paper 80.0 %
    python -m vision.main --config configs/vit_imagenet.py:B/16       # no figure in the paper

"Better plain ViT baselines": S/16, batch 1,024, mean pooling, sin-cos positions, RandAugment(2, 10)
and mixup 0.2, no dropout. Nothing of this was run here: ImageNet is not available here. The paper's
decay of 1e-4 is not multiplied by the rate of 1e-3; Optax's is, hence 0.1. The official validation
split is the test split, and 1 % of train is the validation split, as in the paper.
"""

from vision.config import default


def get_config(variant="S/16", epochs="90"):
    c = default()
    c.data.source = "tfds:imagenet2012"
    c.data.image_size = 224
    c.data.channels = 3
    c.data.val_fraction = 0.01
    c.data.random_crop_area = (0.05, 1.0)
    c.data.crop_fraction = 0.875
    c.data.workers = 16

    c.augment.flip_horizontal = True
    c.augment.randaugment_layers = 2
    c.augment.randaugment_magnitude = 10.0
    c.augment.mixup = 0.2

    c.model.name = "vit"
    c.model.variant = variant
    c.model.dtype = "bfloat16"
    c.model.pool = "mean"
    c.model.positions = "sincos"

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.1
    c.optimizer.clip_norm = 1.0
    c.schedule.name = "warmup_cosine"

    c.train.epochs = float(epochs)
    c.train.batch_size = 1024
    c.schedule.warmup = (
        10_000 * c.train.batch_size / (c.train.epochs * 1_281_167 * (1 - c.data.val_fraction))
    )
    c.checkpoint.every = 1000
    return c
