"""DeiT-S with a distillation token on ImageNet. Touvron et al. 2020 (arXiv:2012.12877).

    python -m vision.main --config configs/deit_imagenet.py:runs/teacher        # S: paper 81.2 %
    python -m vision.main --config configs/deit_imagenet.py:runs/teacher:Ti/16  # paper 74.5 %
    python -m vision.main --config configs/deit_imagenet.py:runs/teacher:B/16   # paper 83.4 %

The first argument is the directory of a trained convolutional network on images of 224 pixels, such
as that of configs/resnet_imagenet.py:50; published weights instead need no run:
--config.objective.options.teacher=resnet:50@hf:timm/resnet50.a1_in1k. The paper's
figures are with a RegNetY-16GF of 82.9 %, so expect less from a weaker teacher.

Nothing of this was run here: ImageNet is not available here. Table 9's recipe: 300 epochs of 1,024
images, AdamW at 1e-3 with a decay of 0.05, 5 epochs of warm-up, label smoothing 0.1, stochastic
depth 0.1, RandAugment(2, 9), mixup 0.8, CutMix 1.0, erasing 0.25, and the teacher's hard decisions;
its repeated augmentation is left out. The official validation split is the test split, and 1 % of
train is the validation split. A smoke run needs a teacher from a smoke run, which is for 64 pixels.
"""

from vision.config import default


def get_config(teacher="runs/teacher", variant="S/16"):
    c = default()
    c.data.source = "tfds:imagenet2012"
    c.data.image_size = 224
    c.data.channels = 3
    c.data.val_fraction = 0.01
    c.data.random_crop_area = (0.08, 1.0)
    c.data.crop_fraction = 0.875
    c.data.workers = 16
    c.data.normalize = "mean_std"
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)

    c.augment.flip_horizontal = True
    c.augment.randaugment_layers = 2
    c.augment.randaugment_magnitude = 9.0
    c.augment.random_erasing = 0.25
    c.augment.mixup = 0.8
    c.augment.cutmix = 1.0

    c.model.name = "vit"
    c.model.variant = variant
    c.model.dtype = "bfloat16"
    c.model.distilled = True
    c.model.stochastic_depth = 0.1

    c.objective.name = "distillation"
    c.objective.options.teacher = teacher
    c.objective.options.kind = "hard"
    c.objective.options.alpha = 0.5
    c.objective.label_smoothing = 0.1

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.05
    c.schedule.name = "warmup_cosine"
    c.schedule.warmup = 5 / 300
    c.schedule.final = 0.01

    c.train.epochs = 300.0
    c.train.batch_size = 1024
    c.checkpoint.every = 1000
    return c
