"""Three networks on Fashion-MNIST: a small CNN, a ResNet-20 and a small ViT.

    python -m vision.main --config configs/fashion_mnist.py:cnn
    python -m vision.main --config configs/fashion_mnist.py:resnet
    python -m vision.main --config configs/fashion_mnist.py:vit

54,000 images of 28 x 28 pixels to train on, 6,000 to validate, 10,000 to test; crops and flips. The
data set's page, https://github.com/zalandoresearch/fashion-mnist, lists 92.5 % for two convolutions
of less than 100,000 parameters and 94.9 to 95.4 % for ResNet-18 and DenseNets. What was measured
here is in experiments/fashion_mnist/.
"""

from vision.config import default
from vision.errors import check_choice

EPOCHS = {"cnn": 20.0, "resnet": 15.0, "vit": 20.0}


def get_config(network="cnn"):
    check_choice("the network", network, tuple(EPOCHS))
    c = default()
    c.data.source = "tfds:fashion_mnist"
    c.augment.pad_crop = 2
    c.augment.flip_horizontal = True
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.1
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 5e-4
    c.schedule.name = "warmup_cosine"
    c.train.epochs = EPOCHS[network]
    c.train.batch_size = 128
    c.train.eval_batch_size = 500
    if network == "cnn":
        c.model.name = "cnn"
        c.model.variant = "small"
    elif network == "resnet":
        c.model.name = "resnet"
        c.model.variant = "cifar20"
    else:  # the optimizer of configs/vit_mnist5k.py
        c.model.name = "vit"
        c.model.variant = "nano/7"
        c.model.pool = "mean"
        c.optimizer.name = "muon"
        c.optimizer.learning_rate = 2e-3
        c.optimizer.momentum = 0.95
        c.optimizer.weight_decay = 0.05
        c.optimizer.clip_norm = 1.0
    return c
