"""A small CNN on Fashion-MNIST, alone and taught by a ResNet-20."""

from experiments.run import Row

DATA = "tfds:fashion_mnist"
CONFIG = "configs/distill_fashion_mnist.py"
TEACHER = "the teacher, ResNet-20, 8 epochs"
FLAGS = {"data.source": "{data}"}
GAIN = "CIFAR-100, ResNet-56 to 20: 68.93 to 71.12 (Tian et al. 2020, arXiv:1910.10699, table 1)"


def _taught(way: str, published: str = "") -> Row:
    config = f"{CONFIG}:{way}:{{run:{TEACHER}@0}}"
    return Row(f"taught, {way}", config, FLAGS, published)


ROWS = (
    Row(TEACHER, f"{CONFIG}:teacher", FLAGS | {"train.epochs": 8.0}, seeds=1),
    Row("alone", f"{CONFIG}:alone", FLAGS),
    _taught("soft", GAIN),
    _taught("hard"),
    _taught("hint"),
    _taught("patient"),
)
