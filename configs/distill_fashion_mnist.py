"""A small CNN on Fashion-MNIST that learns from a ResNet-20, in several ways.

    python -m vision.main --config configs/distill_fashion_mnist.py:teacher --workdir runs/teacher
    python -m vision.main --config configs/distill_fashion_mnist.py:alone
    python -m vision.main --config configs/distill_fashion_mnist.py:soft:runs/teacher
    python -m vision.main --config configs/distill_fashion_mnist.py:hard:runs/teacher
    python -m vision.main --config configs/distill_fashion_mnist.py:hint:runs/teacher
    python -m vision.main --config configs/distill_fashion_mnist.py:patient:runs/teacher
    python -m vision.main --config configs/distill_fashion_mnist.py:embedding:runs/teacher

The first trains the teacher, the second the student without one; the others need the directory of
the first. soft: softened probabilities beside the labels (arXiv:1503.02531); hard: the teacher's
decisions (arXiv:2012.12877, eq. 3); hint: soft, and a map inside the teacher (arXiv:1412.6550);
patient: the teacher alone, on mixed images (arXiv:2106.05237); embedding: no labels except for the
head. All train for 20 epochs, on the same images in the same order, so they compare.

Not run to the end here, and from no paper's table. TFDS prepares the 60,000 + 10,000 images of
28 x 28 pixels (31 MB) once, or --config.data.source=arrays:FILE.npz names them; a tenth of the
training images is for validation.
"""

from vision.config import default
from vision.errors import check_choice

WAYS = ("soft", "hard", "hint", "patient", "embedding", "alone", "teacher")


def get_config(way="soft", teacher="runs/teacher"):
    check_choice("the first argument", way, WAYS)
    c = default()
    c.data.source = "tfds:fashion_mnist"
    c.augment.pad_crop = 2
    c.augment.flip_horizontal = True
    c.model.name = "cnn"
    c.model.variant = "small"
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.1
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 5e-4
    c.schedule.name = "warmup_cosine"
    c.train.epochs = 20.0
    c.train.batch_size = 128
    c.train.eval_batch_size = 500
    if way == "teacher":
        c.model.name = "resnet"
        c.model.variant = "cifar20"
    if way in ("alone", "teacher"):
        return c
    c.objective.name = "distillation"
    c.objective.options.teacher = teacher
    if way == "hard":
        c.objective.options.kind = "hard"
    if way == "hint":
        c.objective.options.hint = "stages.1"
        c.objective.options.hint_teacher = "stages.1"
    if way == "patient":
        c.objective.options.alpha = 1.0
        c.objective.options.temperature = 1.0
        c.augment.mixup = 1.0
    if way == "embedding":
        c.objective.name = "embedding_distillation"
        c.checkpoint.metric = "val/step"
    return c
