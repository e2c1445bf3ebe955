"""CLIP on drawings with titles: Radford et al. 2021 (arXiv:2103.00020), from scratch and tiny.

    python -m vision.main --config configs/clip_openclipart.py:openclipart.parquet
    python -m vision.main --config configs/clip_openclipart.py:openclipart.parquet:siglip
    python -m vision.evaluation.retrieval --workdir RUN
    python -m vision.evaluation --workdir RUN --zero-shot classes --out RUN/zero_shot

The file is a table of images, texts and labels: columns image, text, label. Open Clip Art's has
7,455 drawings of 64 px in 22 classes, here at 32 px; 61 have no title and are left out. Whole
themes of icons share a title ("gramastar" 1,375 times, "Lemon SVG theme" 416), so `?group=text`
keeps the images of one title in one split, and no title that is tested was trained on. A theme with
several titles, such as the Flat icons' with dates, may still be in several splits.

A `cnn:small` and a text tower of two blocks, 15 epochs of batches of 128: minutes on two cores.
docs/text.md has what was measured.
"""

from vision.config import default
from vision.errors import check_choice

LOSSES = ("clip", "siglip")


def get_config(path="openclipart.parquet", loss="clip"):
    check_choice("the loss", loss, LOSSES)
    c = default()
    c.data.source = f"parquet:{path}?text=text&group=text"
    c.data.image_size = 32
    c.data.channels = 3
    c.data.fractions = (0.8, 0.1, 0.1)
    c.text.tokenizer = "bpe"
    c.text.vocabulary = 4096
    c.text.context = 24

    c.model.name = "cnn"
    c.model.variant = "small"
    c.augment.pad_crop = 4  # not mirrored: arrows and letters would no longer be what titles say
    c.augment.brightness = 0.2
    c.augment.contrast = 0.2

    c.objective.name = "contrastive"
    c.objective.options.loss = loss
    c.objective.options.variant = "XS"
    c.objective.options.width = 128

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.1
    c.schedule.name = "warmup_cosine"
    c.schedule.warmup = 0.1
    c.train.epochs = 15.0
    c.train.batch_size = 128
    c.train.eval_batch_size = 256
    c.train.eval_every = 150
    c.checkpoint.metric = "val/image_to_text_at_5"
    return c
