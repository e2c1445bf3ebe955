"""CIFAR-10 with few labels: FixMatch, Sohn et al. 2020 (arXiv:2001.07685), and its relatives.

    python -m vision.main --config configs/fixmatch_cifar10.py:40            # 4 labels per class
    python -m vision.main --config configs/fixmatch_cifar10.py:250:flex      # FlexMatch
    python -m vision.main --config configs/fixmatch_cifar10.py:4000:supervised

LABELS:METHOD, LABELS a multiple of 10, METHOD one of `METHODS`; "supervised" learns from the same
labels alone. None was run here, for lack of a GPU. Published errors in %, on the test split:

labels                               40              250             4000
FixMatch, the paper's table 2        13.81 +- 3.37   5.07 +- 0.65    4.26 +- 0.05
FixMatch, USB (arXiv:2208.07204)     8.33            4.97            4.29
supervised, USB                      77.58           55.96           15.51

The paper's recipe, section 4 and appendix B: WRN-28-2, 2^20 steps of 64 labeled and 7 * 64
unlabeled images, SGD with Nesterov momentum 0.9, rate 0.03, cosine of 7 pi / 16, L2 of 5e-4, an
average of the weights with decay 0.999, threshold 0.95. Weak: flip, pad by 4 with reflection and
crop. Strong: the same, RandAugment and Cutout.

Not as in the paper: 5,000 images of train, with their labels, validate, and the last checkpoint is
tested, where it reports the median of the last 20; RandAugment has 2 operations of magnitude 10,
where it draws magnitudes; Cutout is a rectangle of at most a quarter of the image in its mean
color; the weak images have a forward pass of their own (`vision.objectives.consistency`,
`--config.objective.options.one_pass=True`). pi and mean_teacher keep this recipe, as in USB, with
two weak views.
"""

from vision.config import default
from vision.errors import UserError, check_choice

# The options of the objective "consistency" that each method sets.
METHODS = {
    "fixmatch": {},
    "flex": {"rule": "flex"},
    "free": {"rule": "free"},
    "pi": {"method": "pi"},
    "mean_teacher": {"method": "mean_teacher"},
    "pseudo_label": {"method": "pseudo_label"},
    "supervised": None,
}
WEAK_ONLY = ("pi", "mean_teacher")  # as in their papers, both views are augmented weakly


def set_method(c, labels, method):
    """Sets the labels and how the others are learned from; needs c.augment as it is to be."""
    check_choice("the method", method, METHODS)
    if not labels.isdecimal() or int(labels) % 10 or int(labels) == 0:
        raise UserError(f"the number of labels must be a multiple of 10, got '{labels}'")
    c.data.labels = f"{int(labels) // 10}/class"
    options = METHODS[method]
    if options is None:
        return
    c.data.unlabeled = "rest"
    c.data.unlabeled_ratio = 7
    c.objective.name = "consistency"
    with c.objective.options.unlocked():
        c.objective.options.update(options)
    c.strong.update(c.augment)
    if method not in WEAK_ONLY:
        c.strong.randaugment_layers = 2
        c.strong.randaugment_magnitude = 10.0
        c.strong.random_erasing = 1.0
        c.strong.erasing_area = (0.01, 0.25)


def get_config(labels="250", method="fixmatch"):
    c = default()
    c.data.source = "tfds:cifar10"
    c.data.normalize = "mean_std"
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)

    c.augment.pad_crop = 4
    c.augment.pad_mode = "reflect"
    c.augment.flip_horizontal = True

    c.model.name = "wide_resnet"
    c.model.variant = "28-2"

    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.03
    c.optimizer.momentum = 0.9
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 5e-4
    c.optimizer.ema = 0.999
    c.schedule.name = "cosine7_16"
    c.schedule.warmup = 0.0

    c.train.steps = 2**20
    c.train.batch_size = 64
    c.train.eval_batch_size = 1000
    c.train.eval_every = 2**13
    # The best of several by the validation split would use its labels.
    c.checkpoint.metric = "val/step"
    set_method(c, labels, method)
    return c
