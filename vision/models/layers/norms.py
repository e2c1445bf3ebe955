"""Batch normalization with groups, and layer normalization.

Both keep float32 parameters and statistics, and return the dtype of their input. As everywhere in
nnx, `model.train()` and `model.eval()` switch between batch statistics and running averages.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError
from vision.models.layers.dtypes import at_least_float32


class BatchNorm(nnx.BatchNorm):
    """Batch normalization over all axes except the last. Ioffe and Szegedy 2015 (arXiv:1502.03167).

    With `groups` = n > 1, training normalizes each consecutive 1/n of the batch by its own
    statistics, as n devices without synchronization would (Goyal et al. 2017, arXiv:1706.02677,
    section 2.3); the running averages follow the mean of the groups. With 1 it is `nnx.BatchNorm`,
    whose `axis_name` is meant for that case only.

    The running variance follows the biased estimate, as in Flax and TensorFlow; PyTorch's follows
    the unbiased one.

    Attributes:
        frozen: whether training, too, normalizes by the running averages and leaves them alone.
    """

    def __init__(
        self,
        features: int,
        *,
        groups: int = 1,
        zero_scale: bool = False,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        use_scale: bool = True,
        rngs: nnx.Rngs,
    ):
        """Creates the layer.

        Args:
            features: number of channels.
            groups: number of parts of the batch, each with its own statistics.
            zero_scale: start the scale at 0, not 1, so that the layer starts as zero.
            momentum: fraction of the running averages that a step keeps, in [0, 1]; PyTorch's is 1
                minus this.
            epsilon: added to the variance.
            use_scale: whether the scale is learned; if not, the layer normalizes and adds its bias.
            rngs: random streams; `params` is used.
        """
        scale_init = nnx.initializers.ones_init()
        if zero_scale:
            scale_init = nnx.initializers.zeros_init()
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

    def __call__(  # type: ignore[override]
        self, x: jax.Array, use_running_average: bool | None = None
    ) -> jax.Array:
        """Normalizes x (B, ..., C); training also updates the running averages, unless `frozen`.

        Raises:
            UserError: the groups do not divide the batch (training mode only).
        """
        running = self.frozen or (
            self.use_running_average if use_running_average is None else use_running_average
        )
        if self.groups == 1 or running:
            return super().__call__(x, running).astype(x.dtype)
        return self._normalize_groups(x)

    def _normalize_groups(self, x):
        batch = x.shape[0]
        if batch % self.groups:
            raise UserError(
                f"model.batch_norm_groups = {self.groups} does not divide the batch of {batch} "
                "images: choose a batch size that is a multiple of it"
            )
        shape = (self.groups, batch // self.groups, *x.shape[1:])
        wide = x.astype(at_least_float32(x.dtype)).reshape(shape)
        axes = tuple(range(1, wide.ndim - 1))
        mean = wide.mean(axes, keepdims=True)
        # One pass over x, as in nnx.BatchNorm; rounding may make a variance of zero negative.
        var = jnp.maximum(0.0, jnp.square(wide).mean(axes, keepdims=True) - jnp.square(mean))
        self._update_average(self.mean, mean)
        self._update_average(self.var, var)
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.scale is not None:
            factor = factor * self.scale[...]
        y = (wide - mean) * factor + self.bias[...]
        return y.astype(x.dtype).reshape(x.shape)

    def _update_average(self, average, statistic):
        statistic = jax.lax.stop_gradient(statistic.mean(0).reshape(-1))
        average[...] = self.momentum * average[...] + (1 - self.momentum) * statistic


class LayerNorm(nnx.LayerNorm):
    """Layer normalization over the last axis. Ba et al. 2016 (arXiv:1607.06450)."""

    def __init__(self, features: int, *, epsilon: float = 1e-6, rngs: nnx.Rngs):
        super().__init__(features, epsilon=epsilon, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        """Normalizes x (..., D)."""
        return super().__call__(x).astype(x.dtype)
