"""New classes, or new images, for a finished run, without retraining.

    python -m vision.main --config configs/incremental.py:runs/products:new_photos
    python -m vision.main --config configs/incremental.py:runs/products:photos  # it has grown
    python -m vision.main --config configs/incremental.py:runs/products:new_photos \\
        --config.continual.memory=                                   # remember no images
    python -m vision.main --config configs/incremental.py:runs/products:new_photos \\
        --config.continual.memory= --config.continual.old_data=False # they are gone

The first argument is the run, the second the source of the new images, "folder:" if it names no
kind. All else, such as the network, the augmentation and the batch, is that of the run's config.
The first time, the learning rate is 0.3 of the run's; a run that itself went on from another keeps
its own.
The run remembers 20 images of each old class and keeps its old answers (learning without
forgetting) on all images that it sees; the end of the training says what was forgotten. Accuracies
on CIFAR-10 and on steel defects are in experiments/new_classes.
"""

import pathlib

from vision.config import default
from vision.data.sources import kinds, parse
from vision.run.directory import read_run


def get_config(previous="runs/previous", *source):
    fresh = default()
    is_run = (pathlib.Path(previous) / "data.json").is_file()  # otherwise the training says so
    c = read_run(previous)[0] if is_run else default()
    spec = ":".join(source) or "photos"
    c.data.source = spec if parse(spec)[0] in kinds() else f"folder:{spec}"
    c.data.labels = fresh.data.labels
    c.data.unlabeled = fresh.data.unlabeled
    c.data.synthetic = fresh.data.synthetic
    if not c.continual.previous:  # otherwise the rate was lowered, or chosen, for going on
        c.optimizer.learning_rate *= 0.3
    c.model.pretrained = ""  # the run's weights
    for name in ("transfer", "imbalance", "objective", "continual", "early_stopping", "text"):
        c[name] = fresh[name]
    c.augment.mixup = 0.0
    c.augment.cutmix = 0.0
    c.continual.previous = str(pathlib.Path(previous))
    c.continual.memory = "<=20/class"
    c.objective.name = "continual"
    c.objective.options.lwf = 1.0
    c.schedule.warmup = 0.1
    c.checkpoint.metric = "val/step"  # the validation split has both old and new classes
    return c
