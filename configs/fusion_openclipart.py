"""Drawings by their pixels, by their titles, or by both: 22 classes.

    python -m experiments.fusion.data openclipart.parquet runs/titles
    python -m vision.main --config configs/fusion_openclipart.py:runs/titles/all.parquet
    python -m vision.main --config configs/fusion_openclipart.py:FILE:both:gated
    python -m vision.main --config configs/fusion_openclipart.py:FILE:title

The file is a table with the columns image, text, label and group. Images of one group, which share
a title, stay in one split, so no title that is tested was trained on; a title may be missing. WAY
is image, title or both, fused as `vision.models.fusion` says: late, gated or attention.

A `cnn:small` and a text tower of two blocks, 15 epochs: minutes on two cores. experiments/fusion
has what was measured.
"""

from vision.config import default
from vision.errors import check_choice

WAYS = ("image", "title", "both")


def get_config(path="openclipart.parquet", way="both", method="late"):
    check_choice("the way", way, WAYS)
    c = default()
    c.data.source = f"parquet:{path}?text=text&empty=keep&group=group"
    c.data.image_size = 32
    c.data.channels = 3
    c.data.fractions = (0.8, 0.1, 0.1)

    if way == "image":
        c.model.name = "cnn"
        c.model.variant = "small"
    else:
        c.text.tokenizer = "bpe"
        c.text.vocabulary = 4096
        c.text.context = 24
        c.model.name = "fusion"
        c.model.variant = method
        c.model.options.image = "cnn:small" if way == "both" else ""
        c.model.options.tower = "transformer:XS-mean"
        c.model.options.part_dropout = 0.3 if way == "both" else 0.0
    c.augment.pad_crop = 4
    c.augment.brightness = 0.2
    c.augment.contrast = 0.2

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.1
    c.schedule.name = "warmup_cosine"
    c.schedule.warmup = 0.1
    c.objective.label_smoothing = 0.1
    c.train.epochs = 15.0
    c.train.batch_size = 128
    c.train.eval_batch_size = 256
    c.checkpoint.metric = "val/accuracy"
    return c
