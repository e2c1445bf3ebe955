"""Rare classes: nothing, flips and crops, oversampling, or synthetic images of a GAN."""

from experiments.run import Row

DATA = "tfds:fashion_mnist"
TAIL = "{data}?imbalance=100"
FASHION = "configs/gan_fashion_mnist.py"
STEEL = "configs/gan_folder.py:runs/neu/rare:64"
CROPS = {"augment.flip_horizontal": True}
OVER = {"imbalance.sampling": "over"}
SYNTHETIC = "csv:{{run:{}}}/synthetic/synthetic.csv"


# Enough for two CPU cores: at 64 px a step of the config's own takes seconds.
SMALL = {
    "objective.options.width": 16,
    "optimizer.learning_rate": 4e-4,
    "train.steps": 3000,
    "train.batch_size": 32,
    "train.eval_every": 500,
}


def _rows(
    name: str, gan: Row, classifier: str, flags: dict[str, object], pad: int
) -> tuple[Row, ...]:
    """Returns the rows of a data set: the GAN, then the classifiers."""
    crops = flags | CROPS | {"augment.pad_crop": pad}
    ways = {
        "nothing": flags,
        "flips and crops": crops,
        "oversampling": crops | OVER,
        "synthetic images": crops | {"data.synthetic": SYNTHETIC.format(gan.name)},
    }
    return (
        gan,
        *(Row(f"{name}, {way}", classifier, keys, balanced=True) for way, keys in ways.items()),
    )


def _gan(name: str, config: str, flags: dict[str, object]) -> Row:
    flags = flags | {"imbalance.sampling": "balanced"}
    return Row(f"{name}, GAN", config, flags, accuracy=False, synthesize="--balance")


TAILED: dict[str, object] = {"data.source": TAIL}
GRAY: dict[str, object] = {"data.channels": 1}
ROWS = (
    *_rows(
        "Fashion-MNIST",
        _gan("Fashion-MNIST", FASHION, TAILED),
        f"{FASHION}:classifier",
        TAILED,
        pad=2,
    ),
    *_rows("steel", _gan("steel", STEEL, GRAY | SMALL), f"{STEEL}:classifier", GRAY, pad=6),
)
