"""ResNet on CIFAR-10, He et al. 2015 (arXiv:1512.03385), section 4.2 and table 6.

    python -m vision.main --config configs/resnet_cifar10.py        # ResNet-20: paper 91.25 %
    python -m vision.main --config configs/resnet_cifar10.py:56     # ResNet-56: paper 93.03 %

Neither was run to the end here. Depths 20, 32, 44, 56 and 110; paper 91.25, 92.49, 92.83, 93.03 and
93.57 % (110: best of five, mean 93.39 %).

As in the paper: 64,000 steps of 128 images, 45,000 to train on and 5,000 to validate, rate 0.1
divided by ten at 32,000 and 48,000, L2 of 1e-4 on every parameter, pad by 4 and crop, flip. Not as
in the paper: channels are normalized by mean and deviation, where it subtracts the per-pixel mean,
and ResNet-110 warms up linearly over 400 steps. `experiments/he2015_resnet/` has what was measured.
"""

from vision.config import default


def get_config(depth="20"):
    c = default()
    c.data.source = "tfds:cifar10"
    c.data.normalize = "mean_std"
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)

    c.augment.pad_crop = 4
    c.augment.flip_horizontal = True

    c.model.name = "resnet"
    c.model.variant = f"cifar{depth}"

    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.1
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 1e-4
    c.optimizer.decay_all = True
    c.schedule.name = "step"
    c.schedule.boundaries = (0.5, 0.75)
    c.schedule.factor = 0.1
    c.schedule.warmup = 400 / 64_000 if depth == "110" else 0.0

    c.train.steps = 64_000
    c.train.batch_size = 128
    c.train.eval_batch_size = 1024
    c.train.eval_every = 1000
    return c
