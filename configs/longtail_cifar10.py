"""ResNet-32 on long-tailed CIFAR-10, and the literature's methods against the tail.

    python -m vision.main --config configs/longtail_cifar10.py:plain               # paper 70.4 %
    python -m vision.main --config configs/longtail_cifar10.py:ldam_drw            # paper 77.0 %
    python -m vision.main --config configs/longtail_cifar10.py:logit_adjustment    # theirs 77.9 %

The last figure is that of the authors' code, not of their paper. None was run here, for lack of a
GPU. Each method is one argument: see `METHODS`.

The profile "exp" of Cui et al. 2019 (arXiv:1901.05555): 5,000 images of the first class, 50 of the
last, 12,406 in all; the test split is balanced. The recipe of Cao et al. 2019 (arXiv:1906.07413),
section 4: 200 epochs of 128 images, rate 0.1 after 5 epochs of warm-up, divided by 100 at 160 and
180, L2 of 2e-4, pad by 4 and crop, flip. As in the paper, all of train is learned from, and the
last epoch counts. `experiments/long_tail/` has the papers' figures and ours.
"""

from vision.config import default
from vision.errors import check_choice

# The keys that each method sets; it needs nothing else, so any config can use it.
METHODS = {
    "plain": {},
    "inverse": {"objective.class_weights": "inverse"},
    "effective_number": {
        "objective.class_weights": "effective_number",
        "objective.effective_number_beta": 0.9999,
    },
    "focal": {"objective.focal_gamma": 2.0},
    "oversampling": {"imbalance.sampling": "over"},
    "undersampling": {"imbalance.sampling": "under"},
    "sqrt_sampling": {"imbalance.sampling": "sqrt"},
    "logit_adjustment": {"objective.logit_adjustment": 1.0},
    "ldam_drw": {
        "model.head": "cosine",
        "objective.ldam_margin": 0.5,
        "objective.class_weights": "effective_number",
        "objective.effective_number_beta": 0.9999,
        "objective.weights_from": 0.8,
    },
    "balanced_first": {"imbalance.sampling": "balanced", "imbalance.sampling_until": 0.5},
    "retrain_head": {"imbalance.retrain_head": 20.0},
    "smote": {"imbalance.retrain_head": 20.0, "imbalance.sampling": "smote"},
}


def set_method(c, method):
    """Sets the keys of a method in a config."""
    check_choice("the method", method, METHODS)
    c.update_from_flattened_dict(METHODS[method])


def get_config(method="plain", ratio="100"):
    c = default()
    c.data.source = f"tfds:cifar10?imbalance={ratio}"
    c.data.val_fraction = 0.0
    c.data.normalize = "mean_std"
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)

    c.augment.pad_crop = 4
    c.augment.flip_horizontal = True

    c.model.name = "resnet"
    c.model.variant = "cifar32"

    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.1
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 2e-4
    c.optimizer.decay_all = True
    c.schedule.name = "step"
    c.schedule.boundaries = (0.8, 0.9)
    c.schedule.factor = 0.01
    c.schedule.warmup = 5 / 200

    c.train.epochs = 200.0
    c.train.batch_size = 128
    c.train.eval_batch_size = 1000
    c.train.eval_every = 1_000_000  # only at the end: the test split chooses nothing
    set_method(c, method)
    return c
