"""ResNet on ImageNet (ILSVRC 2012), the 90-epoch recipe of Goyal et al. 2017 (arXiv:1706.02677).

    python -m vision.main --config configs/resnet_imagenet.py        # ResNet-50: paper 76.4 %
    python -m vision.main --config configs/resnet_imagenet.py:18     # 18, 34, 50, 101, 152

The paper's figure is from table 1 (23.6 % error). Nothing of this was run here: ImageNet is not at
hand. Batch 256, v1.5 (stride in the 3x3), last BatchNorm scale of each block from 0, crops of 8 to
100 % of the area, flips, rate 0.1 after 5 epochs of warm-up and divided by ten at 30, 60 and 80.
BatchNorm takes its statistics over 32 images, as the paper's eight devices did; the official
validation split is the test split, and 1 % of train is the validation split.
"""

from vision.config import default


def get_config(depth="50"):
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

    c.model.name = "resnet"
    c.model.variant = depth
    c.model.dtype = "bfloat16"
    c.model.batch_norm_groups = 8

    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.1
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 1e-4
    c.schedule.name = "step"
    c.schedule.boundaries = (30 / 90, 60 / 90, 80 / 90)
    c.schedule.warmup = 5 / 90

    c.train.epochs = 90.0
    c.train.batch_size = 256
    c.train.eval_batch_size = 256
    c.checkpoint.every = 1000
    return c
