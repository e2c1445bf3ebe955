"""A made-up way of learning that uses every part of the contract at once."""

import jax
import jax.numpy as jnp
from flax import nnx

from vision.metrics import knn_accuracy
from vision.objectives.supervised import cross_entropy

INPUTS = {"train": ("image", "strong"), "unlabeled": ("weak", "strong")}
OPTIONS = {"teacher": "", "anchor": "", "temperature": 1.0, "momentum": 0.9, "width": 8}
MEASURES = ("knn", "norm")


class Everything(nnx.Module):
    """A teacher from a run, a momentum encoder, an anchor from a file, a queue, texts, noise."""

    frozen = ("slow", "teacher", "anchor")
    constant = ("teacher", "anchor")
    players = {"critic": ("critic",), "learner": ("model", "projection")}
    whole_batch = True

    def __init__(self, model, teacher, *, temperature, momentum, width, rngs):
        features = model.head.in_features
        self.model = model
        self.slow = nnx.clone(model)
        self.teacher = teacher
        self.anchor = nnx.Linear(features, width, rngs=rngs)
        self.projection = nnx.Linear(features, width, rngs=rngs)
        self.critic = nnx.Linear(width, 1, rngs=rngs)
        self.queue = nnx.Variable(jnp.zeros((16, width)))
        self.rngs = nnx.Rngs(noise=rngs.params())
        self.temperature = temperature
        self.momentum = momentum

    def loss(self, batch, player):
        unlabeled = batch["unlabeled"]
        embeddings = self.model.embed(batch["image"])
        projected = self.projection(embeddings) + batch["text"].mean(-1, keepdims=True)
        noise = 0.01 * jax.random.normal(self.rngs.noise(), projected.shape)
        if player == "critic":
            scores = self.critic(jax.lax.stop_gradient(projected) + noise)
            return jnp.square(scores - self.queue[...].mean()).mean(), {}
        logits = self.model.head(embeddings)
        soft = jax.nn.softmax(self.teacher(unlabeled["weak"]) / self.temperature)
        student = self.model(unlabeled["strong"])
        target = jax.lax.stop_gradient(self.slow.embed(batch["strong"]))
        pull = (
            jnp.square(embeddings - target).mean()
            + jnp.square(projected - self.anchor(target)).mean()
        )
        self.queue[...] = jnp.concatenate([projected, self.queue[...]])[:16]
        loss = cross_entropy(logits, batch["label"]).mean() + pull - self.critic(projected).mean()
        distilled = cross_entropy(student, soft).mean()
        weight = 1 - 0.5 * batch["progress"]
        return loss + weight * distilled, {"distilled": distilled}

    def after_update(self):
        old, new = nnx.state(self.slow, nnx.Param), nnx.state(self.model, nnx.Param)
        m = self.momentum
        nnx.update(self.slow, jax.tree.map(lambda s, f: m * s + (1 - m) * f, old, new))


def starts(c):
    return {"slow": "model", "teacher": c.options.teacher, "anchor": c.options.anchor}


def validate(embed, loaders):
    embeddings, labels = embed(loaders["val"])
    knn = knn_accuracy(*embed(loaders["train"]), embeddings, labels)
    return {"knn": knn, "norm": float(jnp.linalg.norm(embeddings, axis=-1).mean())}


def build(c, model, *, class_counts, rngs, architectures):
    options = {name: c.options[name] for name in ("temperature", "momentum", "width")}
    return Everything(model, architectures["teacher"], **options, rngs=rngs)
