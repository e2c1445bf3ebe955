"""A masked autoencoder on Fashion-MNIST, fine-tuned on 1 % of the labels."""

from experiments.run import Row

DATA = "tfds:fashion_mnist"
CONFIG = "configs/mae_fashion_mnist.py"
FLAGS = {"data.source": "{data}"}
FEW = FLAGS | {"data.labels_seed": "{seed}"}
PRETRAIN = "pre-training, no labels, 20 epochs"

ROWS = (
    Row(PRETRAIN, f"{CONFIG}:pretrain", FLAGS | {"train.epochs": 20.0}, seeds=1, accuracy=False),
    Row("from scratch, 1 % of the labels", f"{CONFIG}:scratch:1%", FEW),
    Row("fine-tuned, 1 % of the labels", f"{CONFIG}:finetune:1%:{{run:{PRETRAIN}@0}}", FEW),
)
