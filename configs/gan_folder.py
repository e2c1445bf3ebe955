"""Synthetic images from your own: PATH/CLASS/*.jpg, or PATH/{train,val,test}/CLASS/*.jpg.

    python -m vision.main --config configs/gan_folder.py:PATH --workdir runs/gan
    python -m vision.synthesize --workdir runs/gan --out synthetic --balance
    python -m vision.main --config configs/resnet_folder.py:PATH \
        --config.data.synthetic=csv:synthetic/synthetic.csv
    python -m vision.main --config configs/gan_folder.py:PATH:64:classifier

A class-conditional GAN at 64 px (`PATH:SIDE`: 28, 32, 64, 96 and other sides of 4 to 7 times a
power of 2); `--config.data.channels=1` for gray images. Every class is seen equally often, and all
that is drawn is augmented before the discriminator sees it (DiffAugment), without which a few
hundred images are learned by heart. A starting point for a GPU, not measured here: on two CPU cores
a step takes seconds. The last command is a small classifier at the same size, to compare with and
without synthetic images: experiments/synthesis.
"""

from configs.gan_fashion_mnist import MODES, set_classifier, set_players
from vision.config import default
from vision.errors import check_choice


def get_config(path="photos", side="64", mode="gan"):
    check_choice("the third argument", mode, MODES)
    c = default()
    c.data.source = f"folder:{path}"
    c.data.image_size = int(side)
    c.data.channels = 3
    c.model.name = "cnn"
    c.model.variant = "small"
    if mode == "classifier":
        set_classifier(c)
        return c
    c.augment.flip_horizontal = True
    c.imbalance.sampling = "balanced"
    set_players(c)
    c.optimizer.learning_rate = 2e-4
    c.objective.options.width = 32
    c.train.steps = 20_000
    c.train.batch_size = 64
    c.train.eval_every = 2000
    return c
