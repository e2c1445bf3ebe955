"""BYOL on ImageNet (ILSVRC 2012) without labels, Grill et al. 2020 (arXiv:2006.07733).

    python -m vision.main --config configs/byol_imagenet.py         # 1,000 epochs: paper 74.3 %

It was not run here: ImageNet is not available here. The paper's figure is a linear probe's on a
ResNet-50 (table 1). Its recipe, section 3.3 and table 6: batches of 4,096, LARS with rate 3.2 = 0.2
x 4096 / 256 and decay 1.5e-6, 10 epochs of warm-up, then a cosine; the slow network's momentum of
0.996 rises to 1. The first view is always blurred; the second in a tenth of the images, and
solarized in a fifth.

Not as in the paper: the slow network's BatchNorm (`vision/objectives/byol.py`), and the crops
(`configs/simclr_imagenet.py`).
"""

from configs.simclr_cifar10 import set_views
from configs.simclr_imagenet import set_imagenet
from vision.config import default


def get_config(epochs="1000"):
    c = default()
    set_imagenet(c, epochs, 4096, 10)
    set_views(c.augment, jitter=(0.4, 0.4, 0.2, 0.1), blur=1.0)
    set_views(c.strong, jitter=(0.4, 0.4, 0.2, 0.1), blur=0.1, solarize=0.2)

    c.objective.name = "byol"

    c.optimizer.name = "lars"
    c.optimizer.learning_rate = 3.2
    c.optimizer.weight_decay = 1.5e-6
    return c
