"""MoCo v2 on CIFAR-10 without labels: He et al. 2019 (arXiv:1911.05722), arXiv:2003.04297.

    python -m vision.main --config configs/moco_cifar10.py         # 200 epochs
    python -m vision.main --config configs/moco_cifar10.py:1000    # 1,000 epochs

Neither was run here, for lack of a GPU. Published for a ResNet-18 with a 3x3 stem: 83.8 % of
nearest neighbors after 200 epochs (lightly's benchmark), 92.94 % of a linear probe after 1,000
(solo-learn).

The papers have no CIFAR-10. As both libraries do: a queue of 4,096 or more and a faster momentum
than ImageNet's, SGD of rate 0.03 for each 64 images, L2 of 5e-4 and a cosine, crops of 20 to 100 %
of the area, no blur; batches of 512. 45,000 images are learned from, and 5,000 validate.
"""

from configs.simclr_cifar10 import set_cifar10, set_views
from vision.config import default


def get_config(epochs="200"):
    c = default()
    set_cifar10(c, epochs)
    set_views(c.augment, area=(0.2, 1.0))

    c.objective.name = "moco"
    c.objective.options.queue = 8192
    c.objective.options.momentum = 0.99
    c.objective.options.hidden = 512

    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.24
    c.optimizer.weight_decay = 5e-4
    return c
