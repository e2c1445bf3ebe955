"""CLIP on CIFAR-10, with captions made from class names: can a class be named instead of learned?

    python -m vision.main --config configs/clip_cifar10.py
    python -m vision.main --config configs/clip_cifar10.py:siglip
    python -m vision.main --config configs/clip_cifar10.py:supervised    # the same net, from labels
    python -m vision.evaluation --workdir RUN --zero-shot classes --out RUN/zero_shot

Each image draws one of CLIP's templates (`text.templates`) for its class's name, and zero-shot
classification averages the same prompts. Images whose captions are the same text are not each
other's negatives (arXiv:2204.03610). The network, its augmentation and its batches are those of a
ResNet-20 (`configs/resnet_cifar10.py:20`), for fewer steps. The aim is at least 0.9 of the accuracy
that the same network has if it learns from labels: 1.03 after 2,000 steps (experiments/clip).
"""

from vision.config import default
from vision.errors import check_choice

LOSSES = ("clip", "siglip", "supervised")
TEMPLATES = (
    "a photo of a {}.",
    "a blurry photo of a {}.",
    "a low contrast photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
)


def get_config(loss="clip"):
    check_choice("the loss", loss, LOSSES)
    c = default()
    c.data.source = "tfds:cifar10"
    c.data.normalize = "mean_std"
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)
    c.model.name = "resnet"
    c.model.variant = "cifar20"
    c.augment.pad_crop = 4
    c.augment.flip_horizontal = True

    if loss != "supervised":
        c.text.tokenizer = "bpe"
        c.text.vocabulary = 512
        c.text.context = 16
        c.text.templates = "|".join(TEMPLATES)
        c.objective.name = "contrastive"
        c.objective.options.loss = loss
        c.objective.options.variant = "XS"
        c.objective.options.width = 128
        c.objective.options.same = "positive"

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 2e-3
    c.optimizer.weight_decay = 0.05
    c.schedule.name = "warmup_cosine"
    c.schedule.warmup = 0.05
    c.train.steps = 6000
    c.train.batch_size = 128
    c.train.eval_batch_size = 1000
    c.train.eval_every = 1500
    c.checkpoint.metric = "val/step"
    return c
