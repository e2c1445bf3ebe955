"""A conditional GAN whose critic is the classifier: two players, an optimizer state each.

Goodfellow et al. 2014 (arXiv:1406.2661), with the generator's loss that does not saturate; Mirza
and Osindero 2014 (arXiv:1411.1784).
"""

import jax
import jax.numpy as jnp
from flax import nnx

OPTIONS = {"noise": 4}


class GAN(nnx.Module):
    """The generator draws images of a class, the critic tells them from real ones."""

    players = {"critic": ("model", "judge"), "generator": ("generator",)}

    def __init__(self, model, *, noise, classes, pixels, rngs):
        self.model = model
        self.judge = nnx.Linear(model.head.in_features + classes, 1, rngs=rngs)
        self.generator = nnx.Linear(noise + classes, pixels, rngs=rngs)
        self.rngs = nnx.Rngs(noise=rngs.params())
        self.noise = noise

    def loss(self, batch, player):
        images, labels = batch["image"], batch["label"]
        noise = jax.random.normal(self.rngs.noise(), (len(images), self.noise))
        fake = jnp.tanh(self.generator(jnp.concatenate([noise, labels], 1)))
        fake = fake.reshape(images.shape)

        def score(images):
            embeddings = self.model.embed(images)
            return self.judge(jnp.concatenate([embeddings, labels], 1))[:, 0]

        if player == "generator":
            return jax.nn.softplus(-score(fake)).mean(), {}
        real, generated = score(images), score(jax.lax.stop_gradient(fake))
        accuracy = ((real > 0).mean() + (generated < 0).mean()) / 2
        loss = (jax.nn.softplus(-real) + jax.nn.softplus(generated)).mean()
        return loss, {"critic_accuracy": accuracy}


def build(c, model, *, class_counts, rngs):
    return GAN(model, **c.options, classes=len(class_counts), pixels=64, rngs=rngs)
