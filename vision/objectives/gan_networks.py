"""The two networks of `vision.objectives.gan`: a generator and a discriminator of residual blocks.

As in Miyato et al. 2018 (arXiv:1802.05957), appendix B.4, and Miyato and Koyama 2018
(arXiv:1802.05637), appendix A, with widths that follow the size of the image.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import UserError
from vision.models.layers.convolution import Conv

LARGEST_GRID = 7  # side of the map that the generator begins with, at most; half as much at least
WIDEST = 4  # channels of the smallest map over those of the largest, at most
GLOROT = nnx.initializers.xavier_uniform()
# Of the convolutions that ReLU follows or precedes, as in the authors' code.
GLOROT_RELU = nnx.initializers.variance_scaling(2.0, "fan_avg", "uniform")
TINY = 1e-12


def grid_of(side: int) -> tuple[int, int]:
    """Returns (side of the smallest map, how often it doubles to make the image's side).

    Raises:
        UserError: the side is not 4, 5, 6 or 7 times a power of 2, at least 8.
    """
    grid, doublings = side, 0
    while grid > LARGEST_GRID and grid % 2 == 0:
        grid //= 2
        doublings += 1
    if not doublings or not 4 <= grid <= LARGEST_GRID:
        raise UserError(
            f"data.image_size = {side}: the generator doubles a map of 4, 5, 6 or 7 px, so choose "
            "4 to 7 times a power of 2, such as 28, 32, 64 or 96"
        )
    return grid, doublings


class ConditionalBatchNorm(nnx.Module):
    """Batch normalization whose scale and bias depend on the class.

    De Vries et al. 2017 (arXiv:1707.00683), section 3; a mixed label gives a mixture.

    Args:
        features: number of channels.
        classes: C.
        rngs: `params` is used.
    """

    def __init__(self, features: int, classes: int, *, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(
            features, momentum=0.9, use_scale=False, use_bias=False, rngs=rngs
        )
        self.scale = nnx.Param(jnp.ones((classes, features)))
        self.bias = nnx.Param(jnp.zeros((classes, features)))

    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        """Normalizes x (B, H, W, features) for soft labels (B, C)."""
        scale = (labels @ self.scale[...])[:, None, None].astype(x.dtype)
        bias = (labels @ self.bias[...])[:, None, None].astype(x.dtype)
        return self.norm(x).astype(x.dtype) * scale + bias


class UpBlock(nnx.Module):
    """Doubles a map: (B, H, W, inputs) -> (B, 2 H, 2 W, features).

    Args:
        inputs: channels of the input.
        features: channels of the output.
        classes: C.
        dtype: compute dtype.
        rngs: `params` is used.
    """

    def __init__(
        self, inputs: int, features: int, classes: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        options: dict[str, Any] = {"bias": True, "dtype": dtype, "rngs": rngs}
        self.first_norm = ConditionalBatchNorm(inputs, classes, rngs=rngs)
        self.first = Conv(inputs, features, 3, kernel_init=GLOROT_RELU, **options)
        self.second_norm = ConditionalBatchNorm(features, classes, rngs=rngs)
        self.second = Conv(features, features, 3, kernel_init=GLOROT_RELU, **options)
        self.shortcut = Conv(inputs, features, 1, kernel_init=GLOROT, **options)

    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        branch = self.first(double(jax.nn.relu(self.first_norm(x, labels))))
        branch = self.second(jax.nn.relu(self.second_norm(branch, labels)))
        # A 1x1 convolution of a doubled map is the doubled convolution, at a quarter of the cost.
        return branch + double(self.shortcut(x))


def double(x: jax.Array) -> jax.Array:
    """Returns a map (B, H, W, C) with each pixel four times, (B, 2 H, 2 W, C)."""
    batch, height, width, channels = x.shape
    pixels = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return pixels.reshape(batch, 2 * height, 2 * width, channels)


def halve(x: jax.Array) -> jax.Array:
    """Returns the means of four pixels of a map (B, 2 H, 2 W, C), (B, H, W, C)."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


class Generator(nnx.Module):
    """Noise (B, latent) and labels (B, C) -> images (B, H, W, channels) in [-1, 1].

    Args:
        shape: (H, W, channels) of an image; see `grid_of`.
        classes: C.
        latent: length of the noise.
        width: channels of the largest map; each smaller one has twice as many, up to `WIDEST`.
        dtype: compute dtype.
        rngs: `params` is used.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        latent: int,
        width: int,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.grid, doublings = grid_of(shape[0])
        widths = [min(2**i, WIDEST) * width for i in range(doublings, -1, -1)]
        self.shape = tuple(shape)
        self.latent = latent
        self.dtype = dtype
        self.begin = nnx.Linear(
            latent, self.grid**2 * widths[0], kernel_init=GLOROT, dtype=dtype, rngs=rngs
        )
        self.blocks = nnx.List(
            [
                UpBlock(inputs, features, classes, dtype=dtype, rngs=rngs)
                for inputs, features in itertools.pairwise(widths)
            ]
        )
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.end = Conv(width, shape[2], 3, bias=True, kernel_init=GLOROT, dtype=dtype, rngs=rngs)

    def __call__(self, noise: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns images, at least float32."""
        x = self.begin(noise.astype(self.dtype))
        x = x.reshape(len(noise), self.grid, self.grid, -1)
        for block in self.blocks:
            x = block(x, labels)
        x = self.end(jax.nn.relu(self.norm(x).astype(x.dtype)))
        return jnp.tanh(x.astype(jnp.promote_types(x.dtype, jnp.float32)))


class SpectralNorm(nnx.Module):
    """Divides a layer's kernel by its largest singular value.

    Miyato et al. 2018 (arXiv:1802.05957), algorithm 1: one power iteration each time that the layer
    computes in training; the gradient runs through the singular value, but not through the vectors.

    Args:
        layer: has a `kernel`, (..., features).
        rngs: `params` is used.

    Attributes:
        direction: the left singular vector's estimate, (features,) of length 1.
    """

    def __init__(self, layer: Any, *, rngs: nnx.Rngs):
        self.layer = layer
        start = jax.random.normal(rngs.params(), layer.kernel.shape[-1:])
        self.direction = nnx.Variable(_unit(start))
        self.use_running_average = False  # set by `train` and `eval`

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the layer's output with the normalized kernel."""
        kernel = self.layer.kernel
        self.layer.kernel = nnx.Param(kernel[...] / self.largest())
        outputs = self.layer(x)
        self.layer.kernel = kernel
        return outputs

    def largest(self) -> jax.Array:
        """Returns the estimate of the largest singular value, and improves it in training."""
        matrix = self.layer.kernel[...].reshape(-1, self.layer.kernel.shape[-1])
        fixed = jax.lax.stop_gradient(matrix)
        direction = self.direction[...]
        right = _unit(fixed @ direction)
        if not self.use_running_average:
            direction = _unit(right @ fixed)
            self.direction[...] = direction
        return right @ matrix @ direction


def _unit(vector):
    return vector / jnp.maximum(jnp.linalg.norm(vector), TINY)


class DownBlock(nnx.Module):
    """A residual block of the discriminator: (B, H, W, inputs) -> (B, H / 2, W / 2, features).

    Args:
        inputs: channels of the input.
        features: channels of the output.
        halves: whether it halves the map.
        first: whether its input is an image, which no ReLU must see.
        dtype: compute dtype.
        rngs: `params` is used.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        *,
        halves: bool,
        first: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def conv(inputs: int, kernel: int, start: Any) -> SpectralNorm:
            options: dict[str, Any] = {"bias": True, "dtype": dtype, "rngs": rngs}
            layer = Conv(inputs, features, kernel, kernel_init=start, **options)
            return SpectralNorm(layer, rngs=rngs)

        self.first = conv(inputs, 3, GLOROT_RELU)
        self.second = conv(features, 3, GLOROT_RELU)
        self.shortcut = conv(inputs, 1, GLOROT)
        self.halves = halves
        self.is_first = first

    def __call__(self, x: jax.Array) -> jax.Array:
        branch = self.first(x if self.is_first else jax.nn.relu(x))
        branch = self._halved(self.second(jax.nn.relu(branch)))
        # The mean and a 1x1 convolution commute: the smaller map is cheaper.
        return branch + self.shortcut(self._halved(x))

    def _halved(self, x: jax.Array) -> jax.Array:
        return halve(x) if self.halves else x


class Discriminator(nnx.Module):
    """Images (B, H, W, channels) in [-1, 1] and labels (B, C) -> scores (B,), high for real ones.

    The projection discriminator of Miyato and Koyama 2018, eq. 3: psi(phi(x)) + y^T V phi(x), where
    phi sums its last map over the image.

    Args:
        shape: (H, W, channels) of an image; see `grid_of`.
        classes: C.
        width: channels of the first map; see `Generator`.
        dtype: compute dtype.
        rngs: `params` is used.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        width: int,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        _, halvings = grid_of(shape[0])
        widths = [shape[2], *(min(2**i, WIDEST) * width for i in range(halvings + 1))]
        self.blocks = nnx.List(
            [
                DownBlock(
                    inputs,
                    features,
                    halves=place < halvings,
                    first=place == 0,
                    dtype=dtype,
                    rngs=rngs,
                )
                for place, (inputs, features) in enumerate(itertools.pairwise(widths))
            ]
        )
        last = nnx.Linear(widths[-1], 1, kernel_init=GLOROT, rngs=rngs)
        self.score = SpectralNorm(last, rngs=rngs)
        table = nnx.Linear(classes, widths[-1], use_bias=False, kernel_init=GLOROT, rngs=rngs)
        self.classes = SpectralNorm(table, rngs=rngs)
        self.dtype = dtype

    def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns scores, at least float32."""
        x = images.astype(self.dtype)
        for block in self.blocks:
            x = block(x)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        features = jax.nn.relu(x).sum((1, 2))
        return self.score(features)[:, 0] + (self.classes(labels) * features).sum(-1)
