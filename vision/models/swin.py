"""Swin Transformer. Liu et al. 2021 (arXiv:2103.14030), section 3.

Attention within windows, which every second block shifts by half their side, with a learned bias
for each relative position; LayerNorm eps 1e-5. Where the windows do not divide a map, zeros are
padded on the far side before the shift, as in the authors' detection code and in torchvision (timm
pads after it). Initialization is the authors' code's: normal of 0.02, biases 0.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.errors import UserError, check_choice
from vision.models.layers.blocks import Dropout, StochasticDepth, apply_blocks, linear_rates
from vision.models.layers.convolution import Conv
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.linear import Linear
from vision.models.layers.norms import LayerNorm
from vision.models.layers.options import check_options
from vision.models.layers.positions import resize_square
from vision.models.vit import Mlp
from vision.models.weights.published import Weights

# width of the first stage, which each further one doubles; blocks of each stage; width of a head
VARIANTS = {
    "mu": (8, (2, 1), 4),  # for tests
    "T": (96, (2, 2, 6, 2), 32),
    "S": (96, (2, 2, 18, 2), 32),
    "B": (128, (2, 2, 18, 2), 32),
}
PAPER_TOP1 = {"T": 81.3, "S": 83.0, "B": 83.5}  # table 1: ImageNet-1k at 224 px
PATCH = 4
EPSILON = 1e-5

_swin = functools.partial(Weights, crop=0.9)
_large = functools.partial(Weights, size=384, crop=1.0, options={"window": 12})
WEIGHTS = {  # top-1 as timm lists it, results/results-imagenet.csv
    "hf:timm/swin_tiny_patch4_window7_224.ms_in1k": _swin("T", 81.388),
    "hf:timm/swin_small_patch4_window7_224.ms_in1k": _swin("S", 83.228),
    "hf:timm/swin_small_patch4_window7_224.ms_in22k_ft_in1k": _swin("S", 83.330),
    "hf:timm/swin_base_patch4_window7_224.ms_in1k": _swin("B", 83.604),
    "hf:timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k": _swin("B", 85.276),
    "hf:timm/swin_base_patch4_window12_384.ms_in1k": _large("B", 84.478),
    "hf:timm/swin_base_patch4_window12_384.ms_in22k_ft_in1k": _large("B", 86.442),
}


def build(
    variant,
    num_classes,
    *,
    rngs,
    dtype=jnp.float32,
    image_size=224,
    channels=3,
    window=7,
    dropout=0.0,
    stochastic_depth=0.0,
    remat="none",
):
    """Returns the `Swin` of a variant: "T", "S" or "B". The paper has windows of 7 at 224 px, and
    of 12 at 384 px.

    Args:
        image_size: a multiple of 4, side of the patches. Windows that divide it by 4, 8, 16 and 32
            waste nothing.

    For the other arguments see `Swin`.

    Raises:
        UserError: an unknown variant, images that 4 does not divide, or an option's value that
            cannot be.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    width, depths, head_width = VARIANTS[variant]
    _check_side(image_size, ": set data.image_size")
    return Swin(
        width,
        depths,
        head_width,
        num_classes,
        rngs=rngs,
        dtype=dtype,
        channels=channels,
        window=window,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        remat=remat,
    )


def _check_side(side, advice=""):
    if side < PATCH or side % PATCH:
        raise UserError(
            f"model 'swin' takes images whose side {PATCH} divides, not {side} px{advice}"
        )


class Swin(nnx.Module):
    """Images (B, H, W, C), normalized floats -> embeddings (B, D) -> logits (B, num_classes), both
    float32."""

    def __init__(
        self,
        width,
        depths,
        head_width,
        num_classes,
        *,
        rngs,
        dtype=jnp.float32,
        channels=3,
        window=7,
        dropout=0.0,
        stochastic_depth=0.0,
        remat="none",
    ):
        """Creates the network.

        Args:
            width: channels of the first stage; each further stage has twice as many, and half the
                image's side.
            depths: blocks of each stage; every second one of a stage has shifted windows.
            head_width: channels of each attention head; divides `width`.
            num_classes: length of the logits.
            rngs: nnx's streams: `params`, and `dropout` where there is any.
            dtype: of the computation, float32 or bfloat16. Parameters, statistics and softmax are
                float32.
            channels: of the images.
            window: side of the windows, patches.
            dropout: probability, after the patches and each dense layer but qkv.
            stochastic_depth: probability of dropping each branch of the last block; linear in
                depth. The paper has 0.2, 0.3, 0.5 for T, S, B.
            remat: "none", "dots" or "blocks": what the backward pass computes again; see
                `layers.apply_blocks`.

        Raises:
            UserError: an option's value that cannot be.
        """
        check_options(dropout=dropout, stochastic_depth=stochastic_depth, remat=remat)
        if window < 1:
            raise UserError(
                f"model.options.window = {window}: a window has a side of 1 patch or more"
            )
        self.dtype = dtype
        self.remat = remat
        self.stem = Stem(channels, width, dropout, dtype=dtype, rngs=rngs)
        rates = linear_rates(stochastic_depth, sum(depths))
        make = functools.partial(
            Stage, head_width=head_width, window=window, dropout=dropout, dtype=dtype, rngs=rngs
        )
        stages = []
        for i, depth in enumerate(depths):
            rates, here = rates[depth:], rates[:depth]
            stages.append(make(width * 2**i, here, merge=i > 0))
        self.stages = nnx.List(stages)
        features = width * 2 ** (len(depths) - 1)
        self.norm = LayerNorm(features, epsilon=EPSILON, rngs=rngs)
        self.head = nnx.Linear(
            features,
            num_classes,
            kernel_init=nnx.initializers.normal(0.02),
            dtype=at_least_float32(dtype),
            rngs=rngs,
        )

    def __call__(self, images):
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def embed(self, images):
        """Returns embeddings (B, D), float32, of images (B, H, W, C).

        Raises:
            UserError: as `features`.
        """
        *_, last = self.features(images).values()
        return self.pool(last)

    def features(self, images):
        """Returns {"stem": ..., "stages.0": ..., ...}: maps (B, H / 4, W / 4, width), then halved
        at each stage.

        Raises:
            UserError: images whose sides 4 does not divide.
        """
        for side in images.shape[1:3]:
            _check_side(side)
        maps = {"stem": self.stem(images.astype(self.dtype))}
        for i, stage in enumerate(self.stages):
            *_, last = maps.values()
            maps[f"stages.{i}"] = stage(last, self.remat)
        return maps

    def pool(self, x):
        """Returns embeddings (B, D), float32, of the last map: the mean over the image of it
        normalized."""
        return self.norm(x.astype(at_least_float32(self.dtype))).mean((1, 2))


class Stem(nnx.Module):
    """Patches of 4x4 pixels, normalized: (B, H, W, C) -> (B, H / 4, W / 4, width)."""

    def __init__(self, channels, width, dropout, *, dtype, rngs):
        options = {"padding": "VALID", "bias": True, "kernel_init": nnx.initializers.normal(0.02)}
        self.conv = Conv(channels, width, PATCH, PATCH, **options, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.conv(x)))


class Stage(nnx.Module):
    """Blocks of one width, after a `Merge` where the stage is not the first.

    Args:
        width: channels of the result.
        rates: stochastic depth of each block.
        merge: whether x comes with half the channels and twice the side.
        options: see `Block`.
    """

    def __init__(self, width, rates, *, merge, dtype, rngs, **options):
        self.merge = Merge(width // 2, dtype=dtype, rngs=rngs) if merge else None
        make = functools.partial(Block, width, dtype=dtype, rngs=rngs, **options)
        self.blocks = nnx.List([make(rate, shifted=i % 2 == 1) for i, rate in enumerate(rates)])

    def __call__(self, x, remat="none"):
        x = x if self.merge is None else self.merge(x)
        return apply_blocks(self.blocks, x, remat)


class Merge(nnx.Module):
    """Halves the map and doubles the channels: (B, H, W, C) -> (B, H / 2, W / 2, 2 C); an odd side
    gets zeros."""

    def __init__(self, width, *, dtype, rngs):
        self.norm = LayerNorm(4 * width, epsilon=EPSILON, rngs=rngs)
        init = nnx.initializers.normal(0.02)
        self.reduction = Linear(
            4 * width, 2 * width, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs
        )

    def __call__(self, x):
        x = _pad(x, 2)
        batch, height, side, width = x.shape
        x = x.reshape(batch, height // 2, 2, side // 2, 2, width)
        # The four pixels column by column, as in the authors' code.
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, side // 2, 4 * width)
        return self.reduction(self.norm(x))


class Block(nnx.Module):
    """Pre-norm block on x (B, H, W, width): attention within windows, then an MLP, each a residual
    branch.

    Args:
        width: channels.
        stochastic_depth: probability of dropping each branch.
        head_width, window, dropout: see `Swin`.
        shifted: whether the windows are.
        dtype: of the computation.
        rngs: nnx's streams.
    """

    def __init__(
        self, width, stochastic_depth, *, head_width, window, dropout, shifted, dtype, rngs
    ):
        init = nnx.initializers.normal(0.02)
        self.norm1 = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        shift = window // 2 if shifted else 0
        self.attention = WindowAttention(
            width, width // head_width, window, shift, dropout, dtype=dtype, rngs=rngs
        )
        self.norm2 = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        inits = {"kernel_init": init, "bias_init": nnx.initializers.zeros_init()}
        self.mlp = Mlp(width, 4 * width, dropout, **inits, dtype=dtype, rngs=rngs)
        self.drop = StochasticDepth(stochastic_depth, rngs=rngs)

    def __call__(self, x):
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class WindowAttention(nnx.Module):
    """Multi-head self-attention within windows of x (B, H, W, width), shifted cyclically. The
    paper's section 3.2."""

    def __init__(self, width, heads, window, shift, dropout, *, dtype, rngs):
        init = nnx.initializers.normal(0.02)
        self.qkv = Linear(width, 3 * width, kernel_init=init, dtype=dtype, rngs=rngs)
        self.positions = nnx.Param(init(rngs.params(), ((2 * window - 1) ** 2, heads)))
        self.out = Linear(width, width, kernel_init=init, dtype=dtype, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.depth = width // heads
        self.window = window
        self.shift = shift

    def __call__(self, x):
        height, side = x.shape[1:3]
        x = _pad(x, self.window)
        # There is nothing to shift where one window spans the map.
        shifts = [self.shift if length > self.window else 0 for length in x.shape[1:3]]
        padded = x.shape[1:3]
        if any(shifts):
            x = jnp.roll(x, [-shift for shift in shifts], (1, 2))
        x = self._attend(
            to_windows(x, self.window),
            regions(padded, self.window, shifts) if any(shifts) else None,
        )
        x = from_windows(x, self.window, padded)
        if any(shifts):
            x = jnp.roll(x, shifts, (1, 2))
        return self.dropout(x[:, :height, :side])

    def _attend(self, x, regions):
        """Attention on windows of tokens (B, windows, N, width), between those of one region
        (windows, N)."""
        batch, windows, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, windows, tokens, 3, -1, self.depth)
        query, key, value = qkv.transpose(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, N, depth)
        scores = (query @ key.swapaxes(-1, -2)).astype(
            at_least_float32(x.dtype)
        ) * self.depth**-0.5 + self._bias()
        if regions is not None:
            apart = (regions[:, :, None] != regions[:, None, :])[:, None]
            # so in the authors' code, in place of minus infinity
            scores = scores + jnp.where(apart, -100.0, 0.0)
        x = jax.nn.softmax(scores).astype(value.dtype) @ value
        return self.out(x.swapaxes(2, 3).reshape(batch, windows, tokens, -1))

    def _bias(self):
        """What each score gets for the two tokens' relative position: (heads, N, N), float32."""
        bias = self.positions[...][relative_positions(self.window)]
        return bias.transpose(2, 0, 1)


def _pad(x, divisor):
    """Pads x (B, H, W, C) with zeros on the far side, to sides that `divisor` divides."""
    missing = [-length % divisor for length in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *((0, m) for m in missing), (0, 0))) if any(missing) else x


def to_windows(x, window):
    """Cuts x (B, H, W, C) into windows: (B, windows, window * window, C), row by row."""
    batch, height, side, width = x.shape
    x = x.reshape(batch, height // window, window, side // window, window, width)
    return x.swapaxes(2, 3).reshape(batch, -1, window * window, width)


def from_windows(x, window, sides):
    """The inverse of `to_windows`, for a map of these sides (H, W)."""
    (batch, *_, width) = x.shape
    (height, side) = sides
    x = x.reshape(batch, height // window, side // window, window, window, width)
    return x.swapaxes(2, 3).reshape(batch, height, side, width)


def regions(sides, window, shifts):
    """Says which pixels of a shifted map belong together: (windows, window * window) integers.

    A window on the far side holds what the cyclic shift brought there from the near side, which is
    no neighbor.
    """
    rows, columns = (
        (np.arange(side) >= side - window).astype(int) + (np.arange(side) >= side - shift)
        for side, shift in zip(sides, shifts, strict=True)
    )
    grid = 3 * rows[:, None] + columns
    return np.asarray(to_windows(grid[None, :, :, None], window)[0, :, :, 0])


def relative_positions(window):
    """Returns the row of the table of biases for each two tokens of a window: (N, N) integers, N =
    window * window."""
    places = np.indices((window, window)).reshape(2, -1)
    rows, columns = places[:, :, None] - places[:, None, :] + window - 1
    return rows * (2 * window - 1) + columns


def resize_biases(array, shape):
    """Resizes a table of biases (rows, heads) to another window's `shape`, as when fine-tuning
    (section 4.1)."""
    if array.shape[1] != shape[1]:
        return array
    return resize_square(array, round(shape[0] ** 0.5))


IGNORED = r"relative_position_index$|attn_mask$"  # they follow from the shapes
ADAPT = {r"attention\.positions$": resize_biases}
BLOCK = (
    (r"attention\.positions", "attn.relative_position_bias_table"),
    (r"attention\.qkv", "attn.qkv"),
    (r"attention\.out", "attn.proj"),
)
NAMES = {
    "timm": (
        (r"^stem\.conv", "patch_embed.proj"),
        (r"^stem\.norm", "patch_embed.norm"),
        (r"^stages\.(\d)\.merge", r"layers.\1.downsample"),
        (r"^stages", "layers"),
        (r"^head", "head.fc"),
        *BLOCK,
        (r"mlp\.hidden", "mlp.fc1"),
        (r"mlp\.out", "mlp.fc2"),
    ),
    "torchvision": (
        (r"^stem\.conv", "features.0.0"),
        (r"^stem\.norm", "features.0.2"),
        (r"^stages\.(\d)\.merge", lambda m: f"features.{2 * int(m[1])}"),
        (r"^stages\.(\d)\.blocks", lambda m: f"features.{2 * int(m[1]) + 1}"),
        *BLOCK,
        (r"mlp\.hidden", "mlp.0"),
        (r"mlp\.out", "mlp.3"),
    ),
}
