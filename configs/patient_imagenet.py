"""ResNet-50 on ImageNet from a patient teacher. Beyer et al. 2021 (arXiv:2106.05237).

    python -m vision.main --config configs/patient_imagenet.py:runs/teacher         # 1,200 epochs
    python -m vision.main --config configs/patient_imagenet.py:runs/teacher:9600    # paper 82.8 %

The first argument is the directory of a trained run on images of 224 pixels; published weights
instead need no run: --config.objective.options.teacher=convnext:B@hf:timm/convnext_base.fb_in1k.
The paper's figure, from its table 1, is with a BiT-M ResNet-152x2 of 83.0 %. The student learns to
repeat the teacher's probabilities, and labels do not count; both see the same crop (5 to 100 % of
the area), mixed with another image; and the training is long.

Nothing of this was run here: ImageNet is not available here. The recipe of the authors' code: batch
4,096, Adam at 0.03, decoupled decay of 3e-4 a step, gradients clipped to 1, 5,000 steps of warm-up,
temperature 1, mixup 1. Theirs is a BiT ResNet, with GroupNorm and standardized weights; this one
has BatchNorm, for which a lower rate may be better. Their decay is not multiplied by the rate of
0.03; Optax's is, hence 0.01. The official validation split is the test split, and 1 % of train is
the validation split. A smoke run needs a teacher from a smoke run, which is for 64 pixels.
"""

from vision.config import default


def get_config(teacher="runs/teacher", epochs="1200"):
    c = default()
    c.data.source = "tfds:imagenet2012"
    c.data.image_size = 224
    c.data.channels = 3
    c.data.val_fraction = 0.01
    c.data.random_crop_area = (0.05, 1.0)
    c.data.crop_fraction = 0.875
    c.data.workers = 16
    c.data.normalize = "mean_std"
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)

    c.augment.flip_horizontal = True
    c.augment.mixup = 1.0

    c.model.name = "resnet"
    c.model.variant = "50"
    c.model.dtype = "bfloat16"

    c.objective.name = "distillation"
    c.objective.options.teacher = teacher
    c.objective.options.kind = "soft"
    c.objective.options.alpha = 1.0
    c.objective.options.temperature = 1.0

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 0.03
    c.optimizer.weight_decay = 0.01
    c.optimizer.clip_norm = 1.0
    c.schedule.name = "warmup_cosine"

    c.train.epochs = float(epochs)
    c.train.batch_size = 4096
    c.schedule.warmup = (
        5_000 * c.train.batch_size / (c.train.epochs * 1_281_167 * (1 - c.data.val_fraction))
    )
    c.checkpoint.every = 1000
    return c
