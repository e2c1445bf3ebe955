"""SimCLR on CIFAR-10 without labels, Chen et al. 2020 (arXiv:2002.05709), appendix B.9.

    python -m vision.main --config configs/simclr_cifar10.py         # 200 epochs
    python -m vision.main --config configs/simclr_cifar10.py:1000    # 1,000 epochs

Neither was run here, for lack of a GPU. Published for a ResNet-18 with a 3x3 stem: 84.7 % of
nearest neighbors after 200 epochs (lightly's benchmark), 90.74 % of a linear probe after 1,000
(solo-learn). The paper's ResNet-50 has 94.0 % after 1,000 epochs in batches of 1,024.

The paper's recipe: LARS with rate 1, decay 1e-6 and a cosine, temperature 0.5, crops of 8 to 100 %
of the area, flips, jitter of half strength, no blur; batches of 512. Both libraries differ in rates
and decay. 45,000 images are learned from, and 5,000 validate; theirs learn from all 50,000.
`val/knn` counts the nearest neighbors, `val/accuracy` is a linear probe's that learns during the
training.
"""

from vision.config import default


def set_views(section, *, area=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur=0.0, solarize=0.0):
    """Sets how a view is made for learning without labels: appendix A of SimCLR's paper.

    Args:
        section: config.augment, or config.strong for the second view of BYOL.
        area: a crop's share of the area.
        jitter: brightness, contrast, saturation and hue, which change in 80 % of the images.
        blur: share of the images that are blurred.
        solarize: share of the images that are solarized.
    """
    section.random_resized_crop = True
    section.crop_area = area
    section.flip_horizontal = True
    section.brightness, section.contrast, section.saturation, section.hue = jitter
    section.jitter = 0.8
    section.grayscale = 0.2
    section.blur = blur
    section.solarize = solarize


def set_cifar10(c, epochs):
    """Sets data, network and length of a training on CIFAR-10 without labels."""
    c.data.source = "tfds:cifar10"
    c.data.normalize = "mean_std"
    c.data.mean = (0.4914, 0.4822, 0.4465)
    c.data.std = (0.2470, 0.2435, 0.2616)

    c.model.name = "resnet"
    c.model.variant = "18_cifar"

    c.train.epochs = float(epochs)
    c.train.batch_size = 512
    c.train.eval_batch_size = 1000
    c.train.eval_every = 879  # ten epochs
    c.schedule.name = "warmup_cosine"
    c.schedule.warmup = 10 / c.train.epochs
    c.checkpoint.metric = "val/step"


def get_config(epochs="200"):
    c = default()
    set_cifar10(c, epochs)
    set_views(c.augment)

    c.objective.name = "simclr"
    c.objective.options.temperature = 0.5

    c.optimizer.name = "lars"
    c.optimizer.learning_rate = 1.0
    c.optimizer.weight_decay = 1e-6
    return c
