"""A small network from your own images without labels, taught by a big one's embedding.

    python -m vision.main --config configs/label_free_folder.py:photos:teach --workdir runs/small
    python -m vision.main --config configs/label_free_folder.py:photos:student:runs/small \
        --config.data.labels=10/class
    python -m vision.main --config configs/label_free_folder.py:photos:random \
        --config.data.labels=10/class
    python -m vision.main --config configs/label_free_folder.py:photos:teacher \
        --config.data.labels=10/class

The first learns the embedding of EfficientNet-Lite0 with ImageNet weights; the labels, which the
class folders give, reach only a probe. The others train a linear head on few labels: on that
network, on the same one with random weights, and on EfficientNet-Lite0 itself. Accuracies on steel
defects are in experiments/label_free.
"""

from configs.efficientnet_lite_imagenet import LITE0
from vision.config import default
from vision.errors import check_choice

WAYS = ("teach", "student", "random", "teacher")
# As the weights were trained: what the teacher sees is what the student sees.
MEAN = 127 / 255
STD = 128 / 255


def get_config(path="photos", way="teach", run="runs/small"):
    check_choice("the second argument", way, WAYS)
    c = default()
    c.data.source = f"folder:{path}"
    c.data.image_size = 96
    c.data.channels = 3
    c.data.normalize = "mean_std"
    c.data.mean = (MEAN,) * 3
    c.data.std = (STD,) * 3
    c.model.name = "cnn"
    c.model.variant = "small"
    c.optimizer.name = "adamw"
    c.schedule.warmup = 0.1
    c.train.batch_size = 32
    c.train.eval_batch_size = 64
    if way == "teach":
        c.objective.name = "embedding_distillation"
        c.objective.options.teacher = f"efficientnet_lite:0@{LITE0}"
        c.augment.flip_horizontal = c.augment.flip_vertical = True
        c.augment.random_resized_crop = True
        c.augment.crop_area = (0.5, 1.0)
        c.optimizer.learning_rate = 3e-3
        c.optimizer.weight_decay = 0.01
        c.train.epochs = 40.0
        c.train.eval_every = 387
        c.checkpoint.metric = "val/step"
        return c
    if way == "teacher":
        c.model.name = "efficientnet_lite"
        c.model.variant = "0"
        c.model.pretrained = LITE0
    if way == "student":
        c.model.pretrained = run
    c.transfer.mode = "head"
    c.transfer.new_head = True
    c.transfer.cache_embeddings = True
    c.optimizer.learning_rate = 1e-2
    c.train.epochs = 100.0
    c.checkpoint.metric = "val/step"
    return c
