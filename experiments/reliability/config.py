"""Runs of seconds for the reliability experiment, small in everything but the number of saves.

    python -m vision.main --config experiments/reliability/config.py:resident
    python -m vision.main --config experiments/reliability/config.py:loaded:PHOTOS
    python -m vision.main --config experiments/reliability/config.py:packed:PACK
    python -m vision.main --config experiments/reliability/config.py:slow
    python -m vision.main --config experiments/reliability/config.py:day

Not for accuracy: each kind has what makes an interruption hard, such as workers, mixup, dropout,
an average of the weights, and a checkpoint every few steps.
"""

from vision.config import default


def get_config(kind="resident", path=""):
    c = default()
    c.log.tensorboard = False
    c.log.every = 2
    c.checkpoint.every = 4
    c.augment.affine = True
    c.augment.mixup = 0.4
    c.optimizer.ema = 0.9
    c.train.steps = 60
    c.train.batch_size = 16
    c.train.eval_every = 20
    c.data.source = "digits"
    c.data.limit = 120
    c.model.name = "cnn"
    c.model.variant = "mu"
    if kind in ("loaded", "packed"):
        c.data.source = f"{'folder' if kind == 'loaded' else 'packed'}:{path}"
        c.data.limit = 0
        c.data.resident_gib = 0.0
        c.data.workers = 2
        c.data.image_size = 16
        c.data.random_crop_area = (0.3, 1.0)
        c.model.name = "vit"
        c.model.variant = "mu/4"
        c.model.dropout = 0.2
    elif kind == "slow":
        c.model.name = "experiments.reliability.slow_model"
        c.log.every = 10
        c.checkpoint.every = 0
        c.train.eval_every = 30
        c.train.steps = 30
    elif kind == "day":
        c.data.limit = 0
        c.augment.mixup = 0.0
        c.log.every = 1000
        c.checkpoint.every = 0
        c.train.eval_every = 20_000
        c.train.steps = 389_000
    return c
