"""A small CNN, a ResNet-20 and a small ViT on Fashion-MNIST."""

from experiments.run import Row

DATA = "tfds:fashion_mnist"
CONFIG = "configs/fashion_mnist.py"
FLAGS = {"data.source": "{data}"}
PAGE = "github.com/zalandoresearch/fashion-mnist"

ROWS = (
    Row("cnn:small", f"{CONFIG}:cnn", FLAGS, f"92.5 (2 conv, < 100 K parameters; {PAGE})"),
    Row("ResNet-20", f"{CONFIG}:resnet", FLAGS, f"94.9 (ResNet-18; {PAGE})"),
    Row("ViT nano/7", f"{CONFIG}:vit", FLAGS),
)
