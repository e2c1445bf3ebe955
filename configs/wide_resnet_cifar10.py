"""Wide ResNets on CIFAR-10, Zagoruyko and Komodakis 2016 (arXiv:1605.07146), section 3, table 5.

    python -m vision.main --config configs/wide_resnet_cifar10.py         # WRN-28-10: paper 96.00 %
    python -m vision.main --config configs/wide_resnet_cifar10.py:16-8    # WRN-16-8: paper 95.73 %
    python -m vision.main --config configs/wide_resnet_cifar10.py:40-2    # WRN-40-2
    python -m vision.main --config configs/wide_resnet_cifar10.py:28-2    # WRN-28-2

None was run here. The paper's figures are medians over five runs, without dropout, on the test
split. It has none for WRN-28-2, on which papers on semi-supervised learning measure, and for
WRN-40-2 only with ZCA whitening (table 4: 94.67 %).

As in the paper: 200 epochs of 128 images, rate 0.1 multiplied by 0.2 at 60, 120 and 160 of them,
Nesterov momentum 0.9, L2 of 5e-4 on every parameter, channels normalized by mean and deviation, pad
by 4 (the image mirrored at its edge) and crop, flip. It learns from all 50,000 training images, so
the test split stands in for the validation split: it is evaluated only at the end, and nothing may
be chosen by it.
"""

from vision.config import default


def get_config(variant="28-10"):
    c = default()
    c.data.source = "tfds:cifar10"
    c.data.val_fraction = 0.0
    c.data.normalize = "mean_std"
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)

    c.augment.pad_crop = 4
    c.augment.pad_mode = "reflect"
    c.augment.flip_horizontal = True

    c.model.name = "wide_resnet"
    c.model.variant = variant

    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.1
    c.optimizer.momentum = 0.9
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 5e-4
    c.optimizer.decay_all = True
    c.schedule.name = "step"
    c.schedule.boundaries = (60 / 200, 120 / 200, 160 / 200)
    c.schedule.factor = 0.2
    c.schedule.warmup = 0.0

    c.train.steps = 200 * 50_000 // 128
    c.train.batch_size = 128
    c.train.eval_batch_size = 1000
    c.train.eval_every = c.train.steps
    return c
