"""What usually matters when a network is trained from scratch: rate, decay, batch, augmentation.

    python -m vision.search --config configs/digits.py --space configs/spaces/supervised.py \\
        --trials 40 --pruner hyperband --out runs/search

The rate is drawn within a factor of 30 of the config's own, each way. A larger batch takes it over
in proportion to its size for SGD (Goyal et al. 2017, arXiv:1706.02677) and to its root for the
others, so that the batch size is chosen for itself. Rate and decay are arguments of the compiled
step, so they may have any value; what is compiled into it has few values, each compiled once.
"""

FACTOR = 30  # of the rate, each way
BATCHES = (0.5, 1.0, 2.0)  # times the config's own
STRENGTHS = (0.0, 0.5, 1.0, 1.5)  # times the config's own
SCALED = {  # keys of augment, and how far they may go
    "rotate": 90.0,
    "shear": 30.0,
    "translate": 0.5,
    "brightness": 0.9,
    "contrast": 0.9,
    "saturation": 0.9,
    "mixup": 1.0,
    "cutmix": 1.0,
    "random_erasing": 0.9,
    "randaugment_magnitude": 30.0,
}


def space(trial, config):
    c = config
    rate = c.optimizer.learning_rate
    rate = trial.suggest_float("learning_rate", rate / FACTOR, rate * FACTOR, log=True)
    c.optimizer.weight_decay = trial.suggest_float("weight_decay", 1e-5, 0.1, log=True)
    batches = trial.suggest_categorical("batch", BATCHES)
    c.optimizer.learning_rate = rate * batches ** (1.0 if c.optimizer.name == "sgd" else 0.5)
    c.train.batch_size = max(1, round(c.train.batch_size * batches))
    # The same number of images between validations, and in all.
    c.train.eval_every = round(c.train.eval_every / batches)
    c.train.steps = round(c.train.steps / batches)
    strength = trial.suggest_categorical("augment", STRENGTHS)
    for name, most in SCALED.items():
        c.augment[name] = min(c.augment[name] * strength, most)
