"""ViT on ImageNet (ILSVRC 2012): "better plain ViT baselines", Beyer et al. 2022 (arXiv:2205.01580).

    python -m vision.main --config configs/vit_imagenet.py            # S/16, 90 epochs: paper 76.5 %
    python -m vision.main --config configs/vit_imagenet.py:S/16:300   # 300 epochs: paper 80.0 %
    python -m vision.main --config configs/vit_imagenet.py:B/16       # the same recipe, no figure in the paper

Nothing of this was run here: ImageNet is not at hand. Batch 1,024, mean pooling, sin-cos positions, RandAugment(2, 10)
and mixup 0.2, no dropout. The paper's decay of 1e-4 is not multiplied by the rate of 1e-3; Optax's is, hence 0.1.
The official validation split is the test split, and 1 % of train is validated on, as in the paper.
"""

from vision.config import default


def get_config(variant="S/16", epochs="90"):
    c = default()
    c.data.source = "tfds:imagenet2012"
    c.data.image_size, c.data.channels = 224, 3
    c.data.val_fraction = 0.01
    c.data.random_crop_area, c.data.crop_fraction = (0.05, 1.0), 0.875
    c.data.workers = 16

    c.augment.flip_horizontal = True
    c.augment.randaugment_layers, c.augment.randaugment_magnitude = 2, 10.0
    c.augment.mixup = 0.2

    c.model.name, c.model.variant = "vit", variant
    c.model.dtype = "bfloat16"
    c.model.pool, c.model.positions = "mean", "sincos"

    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "adamw", 1e-3, 0.1
    c.optimizer.clip_norm = 1.0
    c.schedule.name = "warmup_cosine"

    c.train.epochs, c.train.batch_size = float(epochs), 1024
    c.schedule.warmup = 10_000 * c.train.batch_size / (c.train.epochs * 1_281_167 * (1 - c.data.val_fraction))
    c.checkpoint.every = 1000
    return c
