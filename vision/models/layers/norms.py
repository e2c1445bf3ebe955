"""Normalization: over the batch, over the channels.

Both keep float32 parameters and statistics, and return the dtype that they are given.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError
from vision.models.layers.dtypes import at_least_float32


class BatchNorm(nnx.BatchNorm):
    """Batch normalization over all axes but the last. Ioffe and Szegedy 2015 (arXiv:1502.03167).

    With `groups` = n > 1, training normalizes each consecutive 1/n of the batch by its own
    statistics, as n devices without synchronization would (Goyal et al. 2017, arXiv:1706.02677,
    section 2.3); the running averages follow the groups' mean. With 1 it is `nnx.BatchNorm`, whose
    `axis_name` is meant for that case only.

    The running variance follows the biased estimate, as in Flax and TensorFlow; PyTorch's follows
    the unbiased one.
    """

    def __init__(
        self,
        features,
        *,
        groups=1,
        zero_scale=False,
        momentum=0.9,
        epsilon=1e-5,
        use_scale=True,
        rngs,
    ):
        """Creates the layer.

        Args:
            features: channels, int.
            groups: parts of the batch that have their own statistics.
            zero_scale: start the scale at 0, not 1, so that the layer starts as zero.
            momentum: share of the running averages that a step keeps, in [0, 1]; PyTorch's is 1
                minus this.
            epsilon: added to the variance.
            use_scale: whether there is a scale to learn; without, the layer normalizes and adds its
                bias.
            rngs: nnx's streams; `params` is drawn from.
        """
        scale_init = nnx.initializers.zeros_init() if zero_scale else nnx.initializers.ones_init()
        super().__init__(
            features,
            momentum=momentum,
            epsilon=epsilon,
            use_scale=use_scale,
            scale_init=scale_init,
            rngs=rngs,
        )
        self.groups = groups
        self.frozen = False

    def __call__(self, x, use_running_average=None):
        """Normalizes x (B, ..., C); in training mode, also updates the running averages, unless it
        is `frozen`.

        Raises:
            UserError: the groups do not divide the batch (training mode only).
        """
        running = self.frozen or (
            self.use_running_average if use_running_average is None else use_running_average
        )
        if self.groups == 1 or running:
            return super().__call__(x, running).astype(x.dtype)
        return self._by_group(x)

    def _by_group(self, x):
        batch = x.shape[0]
        if batch % self.groups:
            raise UserError(
                f"model.batch_norm_groups = {self.groups} does not divide the batch of {batch} images: "
                "choose a batch size that is a multiple of it"
            )
        wide = x.astype(at_least_float32(x.dtype)).reshape(
            self.groups, batch // self.groups, *x.shape[1:]
        )
        axes = tuple(range(1, wide.ndim - 1))
        mean = wide.mean(axes, keepdims=True)
        # One pass over x, as in nnx.BatchNorm; rounding may bring a variance of zero below it.
        var = jnp.maximum(0.0, jnp.square(wide).mean(axes, keepdims=True) - jnp.square(mean))
        self._follow(self.mean, mean)
        self._follow(self.var, var)
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.scale is not None:
            factor = factor * self.scale[...]
        y = (wide - mean) * factor + self.bias[...]
        return y.astype(x.dtype).reshape(x.shape)

    def _follow(self, average, statistic):
        statistic = jax.lax.stop_gradient(statistic.mean(0).reshape(-1))
        average[...] = self.momentum * average[...] + (1 - self.momentum) * statistic


class LayerNorm(nnx.LayerNorm):
    """Layer normalization over the last axis. Ba et al. 2016 (arXiv:1607.06450)."""

    def __init__(self, features, *, epsilon=1e-6, rngs):
        super().__init__(features, epsilon=epsilon, rngs=rngs)

    def __call__(self, x):
        """Normalizes x (..., D)."""
        return super().__call__(x).astype(x.dtype)
