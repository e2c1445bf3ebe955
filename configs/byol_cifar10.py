"""BYOL on CIFAR-10 without labels, Grill et al. 2020 (arXiv:2006.07733).

    python -m vision.main --config configs/byol_cifar10.py         # 200 epochs
    python -m vision.main --config configs/byol_cifar10.py:1000    # 1,000 epochs

Neither was run here, for lack of a GPU. Published for a ResNet-18 with a 3x3 stem: 86.9 % of
nearest neighbors after 200 epochs (lightly's benchmark), 92.58 % of a linear probe after 1,000
(solo-learn).

The paper has no CIFAR-10. Its momentum of 0.996 rises to 1; LARS with rate 0.4 for 512 images and
decay 1.5e-6, as its ImageNet recipe says; the second view alone is solarized, and neither is
blurred. Both libraries differ in rates and decay. 45,000 images are learned from, and 5,000
validate.
"""

from configs.simclr_cifar10 import set_cifar10, set_views
from vision.config import default


def get_config(epochs="200"):
    c = default()
    set_cifar10(c, epochs)
    set_views(c.augment, jitter=(0.4, 0.4, 0.2, 0.1))
    set_views(c.strong, jitter=(0.4, 0.4, 0.2, 0.1), solarize=0.2)

    c.objective.name = "byol"

    c.optimizer.name = "lars"
    c.optimizer.learning_rate = 0.4
    c.optimizer.weight_decay = 1.5e-6
    return c
