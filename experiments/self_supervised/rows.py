"""SimCLR, MoCo and BYOL on 12,000 images of Fashion-MNIST, beside random weights and raw pixels."""

from experiments.run import Row

DATA = "tfds:fashion_mnist"
CONFIG = "configs/ssl_fashion_mnist.py"
FLAGS = {"data.source": "{data}", "data.labels": 12_000, "train.eval_every": 1410}
UNTRAINED = FLAGS | {"train.steps": 1, "optimizer.learning_rate": 0.0}
PIXELS = {"model.name": "experiments.self_supervised.pixels"}
# A ResNet-18's on CIFAR-10: k-NN by lightly's benchmark, the linear probe by solo-learn's.
PUBLISHED = {
    "simclr": "k-NN 84.7 (200 epochs), linear 90.74 (1,000)",
    "moco": "k-NN 83.8 (200 epochs), linear 92.94 (1,000)",
    "byol": "k-NN 86.9 (200 epochs), linear 92.58 (1,000)",
}

ROWS = (
    Row("raw pixels", f"{CONFIG}:simclr", UNTRAINED | PIXELS, seeds=1, probe=True, accuracy=False),
    Row("random weights", f"{CONFIG}:simclr", UNTRAINED, probe=True, accuracy=False),
    *(
        Row(method, f"{CONFIG}:{method}", FLAGS, published, probe=True)
        for method, published in PUBLISHED.items()
    ),
)
