"""MoCo on ImageNet (ILSVRC 2012) without labels: v2 with a ResNet-50, v3 with a ViT-S/16.

    python -m vision.main --config configs/moco_imagenet.py:v2    # 800 epochs: paper 71.1 %
    python -m vision.main --config configs/moco_imagenet.py:v3    # 300 epochs: paper 72.5 %

Neither was run here: ImageNet is not available here. The figures are linear probes': table 1 of
arXiv:2003.04297, and table 4 of arXiv:2104.02057, which has 73.4 % after 600 epochs.

v2: batches of 256, SGD with rate 0.03, L2 of 1e-4 and a cosine, 65,536 keys, momentum 0.999,
temperature 0.2; BatchNorm takes its statistics over 32 images, as the paper's eight devices did.
v3, section 4: batches of 4,096, AdamW with rate 2.4e-3 = 1.5e-4 x 4096 / 256 and decay 0.1, 40
epochs of warm-up, then a cosine; momentum rises from 0.99 to 1; patches stay as they are
initialized.

Not as in the papers: the slow network's BatchNorm (`vision/objectives/moco.py`), and the crops
(`configs/simclr_imagenet.py`). In v3 both views draw from the mean of two policies, where the paper
blurs one view always and the other in a tenth of the images, which it also solarizes in a fifth.
Its ViT-S has 12 heads, ours 6. Optax multiplies the decay by the rate, as PyTorch does.
"""

from configs.simclr_cifar10 import set_views
from configs.simclr_imagenet import set_imagenet
from vision.config import default
from vision.errors import check_choice


def get_config(version="v2"):
    check_choice("the version", version, ("v2", "v3"))
    c = default()
    c.objective.name = "moco"
    if version == "v2":
        set_imagenet(c, 800, 256, 0)
        set_views(c.augment, area=(0.2, 1.0), blur=0.5)
        c.model.batch_norm_groups = 8
        c.optimizer.name = "sgd"
        c.optimizer.learning_rate = 0.03
        c.optimizer.weight_decay = 1e-4
        return c

    set_imagenet(c, 300, 4096, 40)
    set_views(c.augment, jitter=(0.4, 0.4, 0.2, 0.1), blur=0.55, solarize=0.1)
    c.model.name = "vit"
    c.model.variant = "S/16"
    c.model.positions = "sincos"
    c.objective.options.queue = 0
    c.objective.options.momentum = 0.99
    c.objective.options.momentum_rises = True
    c.objective.options.hidden = 4096
    c.objective.options.width = 256
    c.objective.options.layers = 3
    c.objective.options.freeze_patches = True
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 2.4e-3
    c.optimizer.weight_decay = 0.1
    return c
