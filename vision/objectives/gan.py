"""A class-conditional GAN, whose images `python -m vision.synthesize` writes.

    python -m vision.main --config configs/gan_fashion_mnist.py --workdir runs/gan

Two players in turn: a discriminator learns to score real images above 1 and generated ones below
-1, a generator to draw images of a class with a high score. Hinge loss: Lim and Ye 2017
(arXiv:1705.02894), section 3, and Miyato et al. 2018 (arXiv:1802.05957), eq. 16 and 17. Spectral
normalization: the latter. Projection discriminator: Miyato and Koyama 2018 (arXiv:1802.05637).
Differentiable augmentation, without which the discriminator learns few images by heart: Zhao et al.
2020 (arXiv:2006.10738). Images are drawn by a moving average of the generator (Yazici et al. 2018,
arXiv:1806.04498).

config.model learns beside them from the labels of the real images, by cross-entropy. No player
learns from it, so that its accuracy is that of the real images alone, and the images can be judged
by its embedding. The discriminator's own features would not do: the generator learns to please
them.

Each player takes the rates of config.optimizer. Adam with b1 = 0 and b2 = 0.9 is the papers'.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision.errors import UserError, check_choice, check_count, check_range
from vision.objectives import diff_augment
from vision.objectives.contract import ImageForm
from vision.objectives.gan_networks import Discriminator, Generator
from vision.objectives.representation import follow
from vision.objectives.supervised import cross_entropy

USES = ()
OPTIONS = {
    "latent": 64,  # length of the noise
    "width": 32,  # channels of both networks' largest map; smaller maps have up to 4 times as many
    "augment": "color,translation,cutout",  # DiffAugment's policies; "" = none
    "momentum": 0.999,  # of the moving average of the generator
}
DISCRIMINATOR = "discriminator"
GENERATOR = "generator"
# Below these, a generator from scratch is likely to repeat its training images, or to draw one
# image of a class again and again. DiffAugment's smallest sets (arXiv:2006.10738, section 4.3) have
# 100 images of one kind. On a tenth of CIFAR-10, 500 images of each class, its images are still
# more than twice as far from the real ones as on all of it.
FEWEST_OF_A_CLASS = 100
FEWEST = 500
NAMED = 5  # classes in a note
LOOK = "Look at the nearest pairs in the report of python -m vision.synthesize"


class GAN(nnx.Module):
    """See the top of the file.

    Args:
        model: the classifier that learns beside the players.
        generator: draws images.
        discriminator: scores them.
        images: the form of the model's images.
        augment: some of `diff_augment.POLICIES`.
        momentum: of the moving average, in [0, 1].
        rngs: random streams; `params` is used.

    Attributes:
        average: the moving average of the generator, BatchNorm's statistics included.
        updates: steps that the average has followed, float32 ().
    """

    frozen = ("average",)
    players = {DISCRIMINATOR: ("model", DISCRIMINATOR), GENERATOR: (GENERATOR,)}

    def __init__(
        self,
        model: Any,
        generator: Generator,
        discriminator: Discriminator,
        *,
        images: ImageForm,
        augment: tuple[str, ...],
        momentum: float,
        rngs: nnx.Rngs,
    ):
        self.model = model
        self.discriminator = discriminator
        self.generator = generator
        self.average = nnx.clone(generator)
        self.updates = nnx.Variable(jnp.zeros((), jnp.float32))
        self.rngs = nnx.Rngs(noise=rngs.params())
        self.images = images
        self.augment = augment
        self.momentum = momentum

    def loss(self, batch: Mapping[str, Any], player: str) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns a player's hinge loss; the discriminator's turn adds the model's cross-entropy.

        Also logged, in the discriminator's turn: "accuracy", the model's; "real" and "fake", the
        mean scores; "told_apart", the share of images whose score has the right sign.

        Raises:
            UserError: the batch has no images.
        """
        if batch["image"].shape[1:] != self.images.shape:
            raise UserError("the objective 'gan' needs images: set transfer.cache_embeddings=False")
        labels = batch["label"].astype(self.updates.dtype)
        fake = self.generator(self.draw_noise(len(labels), labels.dtype), labels)
        if player == GENERATOR:
            return -self._scores(fake, labels).mean(), {}
        real = self.images.to_symmetric(batch["image"]).astype(fake.dtype)
        both = jnp.concatenate([real, jax.lax.stop_gradient(fake)])
        scores = self._scores(both, jnp.concatenate([labels, labels]))
        real_scores, fake_scores = jnp.split(scores, 2)
        logits = self.model(batch["image"])
        classification = cross_entropy(logits, batch["label"].astype(logits.dtype)).mean()
        scalars = {
            "accuracy": (logits.argmax(-1) == batch["label"].argmax(-1)).mean(),
            "real": real_scores.mean(),
            "fake": fake_scores.mean(),
            "told_apart": ((real_scores > 0).mean() + (fake_scores < 0).mean()) / 2,
        }
        return hinge(real_scores, fake_scores) + classification, scalars

    def draw_noise(self, count: int, dtype: Any) -> jax.Array:
        """Returns noise (count, latent), standard normal."""
        return jax.random.normal(self.rngs.noise(), (count, self.generator.latent), dtype)

    def _scores(self, images: jax.Array, labels: jax.Array) -> jax.Array:
        augmented = diff_augment.augment(self.rngs.noise(), images, self.augment)
        return self.discriminator(augmented, labels)

    def after_update(self) -> None:
        """Lets the average follow the generator: a plain mean at first, to forget its start."""
        updates = self.updates[...]
        momentum = jnp.minimum(self.momentum, (1 + updates) / (10 + updates))
        follow(self.average, self.generator, momentum)
        self.updates[...] = updates + 1


def hinge(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Returns the discriminator's loss: mean max(0, 1 - real) + mean max(0, 1 + fake).

    Args:
        real: scores of real images, float (B,).
        fake: scores of generated images, float (B,).
    """
    return jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()


def doubts(
    classes: Sequence[str], class_counts: np.ndarray, drawn: np.ndarray | None = None
) -> list[str]:
    """Returns lines on classes with so few images that the generated ones need a look.

    Args:
        classes: C class names.
        class_counts: int (C,), training images of each class.
        drawn: bool (C,), the classes of which images are drawn; None for all.
    """
    lines = []
    total = int(class_counts.sum())
    if total < FEWEST:
        lines.append(
            f"the run has {total:,} training images: with fewer than {FEWEST}, a generator trained "
            f"from scratch repeats what it has seen. {LOOK}"
        )
    is_few = np.asarray(class_counts) < FEWEST_OF_A_CLASS
    if drawn is not None:
        is_few &= drawn
    few = [
        f"{classes[label]} ({class_counts[label]:,})" for label in np.flatnonzero(is_few).tolist()
    ]
    if few:
        more = f" and {len(few) - NAMED:,} more" if len(few) > NAMED else ""
        lines.append(
            f"classes with fewer than {FEWEST_OF_A_CLASS} training images: "
            f"{', '.join(few[:NAMED])}{more}: their images may be copies, or all alike. {LOOK}"
        )
    return lines


def build(
    c: ConfigDict, model: Any, *, class_counts: np.ndarray, rngs: nnx.Rngs, images: ImageForm
) -> GAN:
    """Builds `GAN`.

    Raises:
        UserError: an option is out of range, or the generator cannot make images of this size.
    """
    options = c.options
    prefix = "objective.options"
    check_count(f"{prefix}.latent", options.latent, 1, 65_536)
    check_count(f"{prefix}.width", options.width, 1, 65_536)
    check_range(f"{prefix}.momentum", options.momentum, 0 <= options.momentum <= 1, "in [0, 1]")
    policies = tuple(filter(None, options.augment.split(",")))
    for policy in policies:
        check_choice(f"{prefix}.augment", policy, diff_augment.POLICIES, ", joined by commas")
    dtype = getattr(model, "dtype", jnp.float32)
    sizes: dict[str, Any] = {"width": options.width, "dtype": dtype, "rngs": rngs}
    classes = len(class_counts)
    return GAN(
        model,
        Generator(images.shape, classes, latent=options.latent, **sizes),
        Discriminator(images.shape, classes, **sizes),
        images=images,
        augment=policies,
        momentum=options.momentum,
        rngs=rngs,
    )
