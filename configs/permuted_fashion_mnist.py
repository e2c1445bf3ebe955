"""Fashion-MNIST with the pixels in ten orders, one after the other: what is forgotten.

    python -m vision.continual --config configs/permuted_fashion_mnist.py:none
    python -m vision.continual --config configs/permuted_fashion_mnist.py:ewc
    python -m vision.continual --config configs/permuted_fashion_mnist.py:replay --config.seed=1

Ten tasks with the same ten classes, as permuted MNIST in Kirkpatrick et al. 2017
(arXiv:1612.00796), section 2.1, whose EWC keeps 0.94 on MNIST: an MLP of two hidden layers of 400
units, here 2,000 steps of 64 images for each task. They use plain SGD; here it is Adam with a rate
of 0.001, because with SGD at 0.03 EWC diverges from a factor of 100 on. The factors of ewc,
online_ewc and si were chosen by the rows `factor` of experiments/permuted_fashion_mnist, which has
the accuracies.
"""

from configs import split_fashion_mnist
from vision.errors import check_choice

TASKS = 10
METHODS = ("none", "joint", "ewc", "online_ewc", "si", "lwf", "replay", "lwf_replay")
EWC = 1000.0
ONLINE_EWC = 10.0
SI = 1.0


def get_config(method="none"):
    check_choice("the first argument", method, METHODS)
    c = split_fashion_mnist.get_config("class", "none")
    c.continual.tasks = " | ".join(f"?permute={seed}" for seed in range(TASKS))
    c.train.steps = 2000
    c.train.batch_size = 64
    c.train.eval_every = c.train.steps
    factor = ONLINE_EWC if method == "online_ewc" else EWC
    split_fashion_mnist.set_method(c, method, factor, SI)
    return c
