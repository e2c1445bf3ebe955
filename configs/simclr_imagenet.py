"""SimCLR on ImageNet (ILSVRC 2012) without labels, Chen et al. 2020 (arXiv:2002.05709).

    python -m vision.main --config configs/simclr_imagenet.py        # 1,000 epochs: paper 69.3 %
    python -m vision.main --config configs/simclr_imagenet.py:100    # 100 epochs

Neither was run here: ImageNet is not available here. The paper's figure is a linear probe's on a
ResNet-50 (table 6). Its recipe, section 2.2 and appendix A: batches of 4,096, LARS with rate 4.8 =
0.3 x 4096 / 256 and decay 1e-6, 10 epochs of warm-up, then a cosine, temperature 0.1; crops of 8 to
100 % of the area, flips, jitter of full strength, blur in half of the images. BatchNorm takes its
statistics over both views of the global batch.

Not as in the paper: crops are taken on the device, from the center square of each image at 224 px,
so the smallest are enlarged, and the borders of oblong images are never seen. 1 % of train is the
validation split.
"""

from configs.simclr_cifar10 import set_views
from vision.config import default

TRAINING_IMAGES = 1_281_167 * 0.99


def set_imagenet(c, epochs, batch_size, warmup):
    """Sets data, network and length of a training on ImageNet without labels.

    Args:
        c: the config.
        epochs: length of the training.
        batch_size: images per step.
        warmup: epochs over which the rate rises; a cosine follows.
    """
    c.data.source = "tfds:imagenet2012"
    c.data.image_size = 224
    c.data.channels = 3
    c.data.val_fraction = 0.01
    c.data.workers = 16
    c.data.normalize = "mean_std"
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)

    c.model.name = "resnet"
    c.model.variant = "50"
    c.model.dtype = "bfloat16"

    c.train.epochs = float(epochs)
    c.train.batch_size = batch_size
    c.train.eval_batch_size = 256
    c.train.eval_every = round(10 * TRAINING_IMAGES / batch_size)
    c.schedule.name = "warmup_cosine"
    c.schedule.warmup = warmup / c.train.epochs
    c.checkpoint.every = 1000
    c.checkpoint.metric = "val/step"


def get_config(epochs="1000"):
    c = default()
    set_imagenet(c, epochs, 4096, 10)
    set_views(c.augment, jitter=(0.8, 0.8, 0.8, 0.2), blur=0.5)

    c.objective.name = "simclr"

    c.optimizer.name = "lars"
    c.optimizer.learning_rate = 4.8
    c.optimizer.weight_decay = 1e-6
    return c
