"""Masked autoencoder on ImageNet (ILSVRC 2012) without labels, then fine-tuning with them.

    python -m vision.main --config configs/mae_imagenet.py --workdir runs/mae     # 800 epochs
    python -m vision.main --config configs/mae_imagenet.py:pretrain:B/16:1600     # paper 83.6 %
    python -m vision.main --config configs/mae_imagenet.py:finetune:B/16:100:runs/mae

He et al. 2021 (arXiv:2111.06377), tables 8 and 9. The 83.6 % of table 3 are those of a ViT-B/16
after 1,600 epochs and fine-tuning; for 800 epochs of it the paper has no figure. Nothing of this
was run here: ImageNet is not available here. Rates are per 256 images. Patches are normalized, so
fine-tuning is that of the authors' code for such a ViT-B (https://github.com/facebookresearch/mae,
FINETUNE.md): a rate of 5e-4, each layer's 0.65 times the next one's. Both train without a class
token, which works as well (appendix A.1), and 1 % of train is the validation split.
"""

from vision.config import default
from vision.errors import check_choice

MODES = ("pretrain", "finetune")


def get_config(mode="pretrain", variant="B/16", epochs="", run="runs/mae"):
    check_choice("the first argument", mode, MODES)
    c = default()
    c.data.source = "tfds:imagenet2012"
    c.data.image_size = 224
    c.data.channels = 3
    c.data.val_fraction = 0.01
    c.data.interpolation = "bicubic"
    c.data.normalize = "mean_std"
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)
    c.data.crop_fraction = 0.875
    c.data.workers = 16
    c.augment.flip_horizontal = True
    c.model.name = "vit"
    c.model.variant = variant
    c.model.dtype = "bfloat16"
    c.model.pool = "mean"
    c.model.positions = "sincos"
    c.optimizer.name = "adamw"
    c.optimizer.weight_decay = 0.05
    c.schedule.name = "warmup_cosine"
    c.checkpoint.every = 1000
    if mode == "pretrain":
        _set_pretraining(c, float(epochs or 800))
    else:
        _set_finetuning(c, float(epochs or 100), run)
    return c


def _set_pretraining(c, epochs):
    c.data.random_crop_area = (0.2, 1.0)
    c.objective.name = "mae"
    c.train.epochs = epochs
    c.train.batch_size = 4096
    c.train.eval_every = 6193  # 20 epochs
    c.optimizer.learning_rate = 1.5e-4 * c.train.batch_size / 256
    c.optimizer.b2 = 0.95
    c.schedule.warmup = min(40 / epochs, 1.0)
    c.checkpoint.metric = "val/step"


def _set_finetuning(c, epochs, run):
    c.data.random_crop_area = (0.08, 1.0)
    c.augment.randaugment_layers = 2
    c.augment.randaugment_magnitude = 9.0
    c.augment.random_erasing = 0.25
    c.augment.mixup = 0.8
    c.augment.cutmix = 1.0
    c.objective.label_smoothing = 0.1
    c.model.pretrained = run
    c.model.stochastic_depth = 0.1
    c.transfer.new_head = True
    c.transfer.layer_decay = 0.65
    c.train.epochs = epochs
    c.train.batch_size = 1024
    c.optimizer.learning_rate = 5e-4 * c.train.batch_size / 256
    c.schedule.warmup = min(5 / epochs, 1.0)
