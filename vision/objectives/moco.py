"""MoCo v2 and v3: views find each other among projections by a slow copy of the network.

v2, with a queue of earlier images: He et al. 2019 (arXiv:1911.05722), algorithm 1, with the head
and the temperature of Chen et al. 2020 (arXiv:2003.04297). v3, with `queue=0`: Chen et al. 2021
(arXiv:2104.02057), algorithm 1. Labels reach only the linear probe, which learns during the
training (`vision.objectives.representation`).

Not as in the papers: the slow copy normalizes by BatchNorm statistics that follow the network's,
not by the batch's. MoCo shuffles the keys over devices, so that the statistics do not reveal which
of them belong together (arXiv:1911.05722, section 3.3); so there is nothing to shuffle. It is EMAN,
Cai et al. 2021 (arXiv:2101.08482).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vision.errors import UserError, check_range
from vision.objectives import representation
from vision.objectives.representation import (
    Head,
    MomentumPair,
    check_batch,
    matched,
    online_probe,
    spread,
    unit,
)

USES = ()
INPUTS = {"train": ("first", "second")}
# v3 has momentum 0.99, momentum_rises, queue 0, hidden 4096, width 256; for a ViT layers 3,
# freeze_patches
OPTIONS = {
    "temperature": 0.2,
    "momentum": 0.999,  # of the slow copy
    "momentum_rises": False,  # to 1 by a cosine
    "queue": 65536,  # earlier keys to tell a view from; 0 = v3
    "hidden": 2048,  # units of the hidden layers of projection and prediction
    "width": 128,  # length of the projections
    "layers": 2,  # of the projection
    "freeze_patches": False,  # a ViT's patches stay as they are initialized (v3, section 4.2)
}
MEASURES = representation.MEASURES
validate = representation.neighbors
starts = representation.starts


class MoCo(MomentumPair):
    """Version 2: the other view is told from a queue of earlier keys.

    Args:
        model: the network.
        projection: on its embeddings; exports leave it out.
        queue: keys to begin with, float (K, D), each of length 1.
        temperature: see `info_nce`.
        momentum: of the slow copy; see `MomentumPair`.
        momentum_rises: see `MomentumPair`.
        freeze_patches: whether `model.patches` stay as they are.
    """

    whole_batch = True

    def __init__(
        self,
        model: Any,
        projection: Head,
        queue: jax.Array | None,
        *,
        temperature: float,
        momentum: float,
        momentum_rises: bool,
        freeze_patches: bool,
    ):
        super().__init__(model, projection, momentum, momentum_rises)
        self.queue = None if queue is None else nnx.Variable(queue)
        self.temperature = temperature
        self.freeze_patches = freeze_patches

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the contrast plus the probe's cross-entropy, in nats, and both apart.

        Also logged: "accuracy" is the probe's, "top1" the share of views that find the other one,
        "spread" `representation.spread` of the projections. The keys enter the queue afterwards.

        Raises:
            UserError: the queue is shorter than the batch.
        """
        self._begin(batch)
        assert self.queue is not None
        earlier = self.queue[...]
        if len(batch["first"]) > len(earlier):
            raise UserError(
                f"objective.options.queue must be at least train.batch_size, got {len(earlier)} "
                f"for a batch of {len(batch['first'])}; 0 is MoCo v3, which has no queue"
            )
        embeddings = self.model.embed(batch["first"])
        queries = unit(self.projection(embeddings))
        keys = self.targets(batch["second"])
        contrast, top1 = info_nce(queries, keys, earlier, self.temperature)
        self.queue[...] = jnp.concatenate([keys, earlier])[: len(earlier)]
        probe, scalars = online_probe(self.model, embeddings, batch["label"])
        scalars |= {"contrast": contrast, "probe": probe, "top1": top1, "spread": spread(queries)}
        return contrast + probe, scalars

    def _begin(self, batch: Mapping[str, Any]) -> None:
        """Notes the progress; and stops the gradient of the patches, if they are frozen.

        The parameters of `loss` are a copy that lives as long as its gradient is taken, so here
        they can be replaced by themselves without a gradient.
        """
        self.note_progress(batch)
        if self.freeze_patches:
            patches = nnx.state(self.model.patches, nnx.Param)
            nnx.update(self.model.patches, jax.lax.stop_gradient(patches))

    def after_update(self) -> None:
        """Lets the slow copy follow; frozen patches get back what weight decay took from them."""
        if not self.freeze_patches:
            super().after_update()
            return
        # `nnx.state` gives the variables themselves, whose values are about to change.
        patches = jax.tree.map(jnp.asarray, nnx.state(self.slow.patches, nnx.Param))
        super().after_update()
        nnx.update(self.model.patches, patches)
        nnx.update(self.slow.patches, patches)


class MoCoV3(MoCo):
    """Version 3: a prediction of the other view's key is told from the batch's other keys.

    Args:
        model: the network.
        projection: on its embeddings.
        prediction: on the projections.
        options: those of `MoCo`.
    """

    def __init__(self, model: Any, projection: Head, prediction: Head, **options: Any):
        super().__init__(model, projection, None, **options)
        self.prediction = prediction

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the contrasts of both views plus the probe's cross-entropy; as `MoCo.loss`.

        Raises:
            UserError: the batch has a single image.
        """
        check_batch(batch["first"], "moco")
        self._begin(batch)
        views = (batch["first"], batch["second"])
        embeddings = [self.model.embed(view) for view in views]
        projections = [self.projection(x) for x in embeddings]
        first, second = (unit(self.prediction(x)) for x in projections)
        first_keys, second_keys = (self.targets(view) for view in views)
        contrast = in_batch(first, second_keys, self.temperature)
        contrast += in_batch(second, first_keys, self.temperature)
        probe, scalars = online_probe(self.model, jnp.concatenate(embeddings), batch["label"])
        scalars |= {"contrast": contrast, "probe": probe}
        scalars |= {"top1": matched(first @ second_keys.T)}
        scalars |= {"spread": spread(unit(jnp.concatenate(projections)))}
        return contrast + probe, scalars


def info_nce(
    queries: jax.Array, keys: jax.Array, queue: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Returns (InfoNCE in nats, accuracy): eq. 1 of arXiv:1911.05722, averaged.

    Args:
        queries: float (B, D); all vectors have length 1.
        keys: float (B, D), what the queries should find.
        queue: float (K, D), what they should tell the keys from.
        temperature: tau, above 0.
    """
    positives = (queries * keys).sum(-1, keepdims=True)
    logits = jnp.concatenate([positives, queries @ queue.T], 1) / temperature
    return -jax.nn.log_softmax(logits)[:, 0].mean(), (logits.argmax(-1) == 0).mean()


def in_batch(queries: jax.Array, keys: jax.Array, temperature: float) -> jax.Array:
    """Returns `ctr` of algorithm 1 of arXiv:2104.02057: 2 tau times InfoNCE among a batch's keys.

    Args:
        queries: float (B, D); all vectors have length 1.
        keys: float (B, D), in the queries' order.
        temperature: tau, above 0.
    """
    log_p = jax.nn.log_softmax(queries @ keys.T / temperature)
    return -2 * temperature * jnp.diagonal(log_p).mean()


def build(c: ConfigDict, model: Any, *, rngs: nnx.Rngs) -> MoCo:
    """Builds `MoCo`, or with a queue of 0 `MoCoV3`.

    v2's projection has no BatchNorm, v3's MLPs have one after every layer.

    Raises:
        UserError: an option is out of range, or patches are to be frozen of a model without them.
    """
    options = c.options
    representation.check_options(options)
    check_range("objective.options.queue", options.queue, options.queue >= 0, "at least 0")
    if options.freeze_patches and not hasattr(model, "patches"):
        raise UserError(
            "objective.options.freeze_patches is for a ViT: this model has no patches; set it to "
            "False"
        )
    version3 = options.queue == 0
    names = ("temperature", "momentum", "momentum_rises", "freeze_patches")
    arguments = {name: options[name] for name in names}
    projection = Head(
        model.head.in_features,
        options.hidden,
        options.width,
        layers=options.layers,
        norm=version3,
        output_norm=version3,
        rngs=rngs,
    )
    if version3:
        prediction = Head(options.width, options.hidden, options.width, output_norm=True, rngs=rngs)
        return MoCoV3(model, projection, prediction, **arguments)
    queue = unit(jax.random.normal(rngs.params(), (options.queue, options.width)))
    return MoCo(model, projection, queue, **arguments)
