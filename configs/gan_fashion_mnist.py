"""A class-conditional GAN on Fashion-MNIST, on two CPU cores.

python -m vision.main --config configs/gan_fashion_mnist.py --workdir runs/gan
python -m vision.synthesize --workdir runs/gan --out runs/gan_images --count 500
"""

from vision.config import default


def set_players(c):
    """The optimizer, the schedule and the checkpoint that all GANs here have."""
    c.objective.name = "gan"
    c.optimizer.name = "adam"
    c.optimizer.learning_rate = 4e-4
    c.optimizer.b1 = 0.0
    c.optimizer.b2 = 0.9
    c.schedule.name = "linear"
    c.schedule.warmup = 0.0
    # The best of several by the classifier's accuracy would not have the best generator.
    c.checkpoint.metric = "val/step"


def get_config():
    c = default()
    c.data.source = "tfds:fashion_mnist"
    c.data.image_size = 28
    c.data.channels = 1
    c.augment.flip_horizontal = True
    c.model.name = "cnn"
    c.model.variant = "small"
    set_players(c)
    c.objective.options.width = 16
    c.train.steps = 4000
    c.train.batch_size = 64
    c.train.eval_batch_size = 500
    c.train.eval_every = 1000
    return c
