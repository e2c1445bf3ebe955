"""A small CNN on Fashion-MNIST, alone and taught by a ResNet-20."""

from experiments.run import Row

DATA = "tfds:fashion_mnist"
CONFIG = "configs/distill_fashion_mnist.py"
TEACHER = "the teacher, ResNet-20, 8 epochs"
# That row's weights, so that a student can be taught without training the teacher once more.
WEIGHTS = "resnet:cifar20@experiments/weights/fashion_mnist_resnet20.safetensors"
FLAGS = {"data.source": "{data}"}
GAIN = "CIFAR-100, ResNet-56 to 20: 68.93 to 71.12 (Tian et al. 2020, arXiv:1910.10699, table 1)"


def _taught(way: str, published: str = "") -> Row:
    flags = FLAGS | {"objective.options.teacher": WEIGHTS}
    return Row(f"taught, {way}", f"{CONFIG}:{way}", flags, published)


ROWS = (
    Row(TEACHER, f"{CONFIG}:teacher", FLAGS | {"train.epochs": 8.0}, seeds=1),
    Row("alone", f"{CONFIG}:alone", FLAGS),
    _taught("soft", GAIN),
    _taught("hard"),
    _taught("hint"),
    _taught("patient"),
)
