"""ConvNeXt and Swin in PyTorch; see `torch_models.py`.

ConvNeXt: Liu et al. 2022 (arXiv:2201.03545). Swin: Liu et al. 2021 (arXiv:2103.14030), with
attention by matrix products as in torchvision: PyTorch's fused attention has no gradient for a bias
on a CPU. Maps are (B, H, W, C) between convolutions, which costs nothing in channels_last.
"""

import torch
from torch import nn

CONVNEXTS = {  # width of the first stage, blocks of each stage
    "T": (96, (3, 3, 9, 3)),
    "S": (96, (3, 3, 27, 3)),
    "B": (128, (3, 3, 27, 3)),
    "L": (192, (3, 3, 27, 3)),
}
SWINS = {"T": (96, (2, 2, 6, 2)), "S": (96, (2, 2, 18, 2)), "B": (128, (2, 2, 18, 2))}
HEAD_WIDTH = 32  # of Swin's attention heads
WINDOW = 7  # side of Swin's windows, patches


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of (B, C, H, W)."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Stages of blocks, each at half the resolution and twice the width of the one before."""

    def __init__(self, variant, classes, channels):
        super().__init__()
        width, depths = CONVNEXTS[variant]
        layers = [nn.Conv2d(channels, width, 4, 4), ChannelNorm(width, eps=1e-6)]
        for stage, depth in enumerate(depths):
            if stage:
                layers += [ChannelNorm(width, eps=1e-6), nn.Conv2d(width, 2 * width, 2, 2)]
                width *= 2
            layers += [ConvNeXtBlock(width) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.norm(self.layers(x).mean((2, 3))))


class ConvNeXtBlock(nn.Module):
    """Residual block: depthwise convolution, norm, MLP, layer scale."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x):
        y = self.mlp(self.norm(self.conv(x).permute(0, 2, 3, 1))) * self.scale
        return x + y.permute(0, 3, 1, 2)


class Swin(nn.Module):
    """Stages of blocks with window attention, each at half the resolution of the one before."""

    def __init__(self, variant, classes, image_size, channels):
        super().__init__()
        width, depths = SWINS[variant]
        side = image_size // 4
        self.patches = nn.Conv2d(channels, width, 4, 4)
        layers = [nn.LayerNorm(width)]
        for stage, depth in enumerate(depths):
            if stage:
                layers.append(Merge(width))
                width *= 2
                side //= 2
            layers += [SwinBlock(width, side, shifted=i % 2 == 1) for i in range(depth)]
        self.layers = nn.Sequential(*layers, nn.LayerNorm(width))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.layers(self.patches(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Merge(nn.Module):
    """Halves the map and doubles the channels: (B, H, W, C) -> (B, H / 2, W / 2, 2 C)."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x):
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class SwinBlock(nn.Module):
    """Window attention, then an MLP, as residual branches of (B, H, W, width)."""

    def __init__(self, width, side, shifted):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attention = WindowAttention(width, side, WINDOW // 2 if shifted else 0)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class WindowAttention(nn.Module):
    """Self-attention within windows of (B, side, side, width), shifted cyclically.

    Raises:
        ValueError: the windows do not divide the map.
    """

    def __init__(self, width, side, shift):
        super().__init__()
        if side % WINDOW:
            raise ValueError(f"windows of {WINDOW} patches do not divide a map of {side}")
        self.heads = width // HEAD_WIDTH
        self.shift = shift if side > WINDOW else 0  # nothing to shift if one window spans the map
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.positions = nn.Parameter(torch.randn((2 * WINDOW - 1) ** 2, self.heads) * 0.02)
        self.register_buffer("index", relative_positions(), persistent=False)
        mask = region_mask(side, self.shift) if self.shift else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x):
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        batch, side, _, width = x.shape
        count = side // WINDOW
        x = x.reshape(batch, count, WINDOW, count, WINDOW, width).transpose(2, 3)
        qkv = self.qkv(x).reshape(batch, count**2, WINDOW**2, 3, self.heads, HEAD_WIDTH)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)
        bias = self.positions[self.index].permute(2, 0, 1)
        if self.mask is not None:
            bias = bias + self.mask[:, None]
        scores = (query * HEAD_WIDTH**-0.5) @ key.transpose(-2, -1) + bias
        x = (scores.softmax(-1) @ value).transpose(2, 3)
        x = self.out(x.reshape(batch, count, count, WINDOW, WINDOW, width))
        x = x.transpose(2, 3).reshape(batch, side, side, width)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


def relative_positions():
    """Returns the row in the table of biases for each pair of tokens of a window: (N, N)."""
    places = torch.stack(torch.meshgrid(*[torch.arange(WINDOW)] * 2, indexing="ij")).flatten(1)
    rows, columns = places[:, :, None] - places[:, None, :] + WINDOW - 1
    return rows * (2 * WINDOW - 1) + columns


def region_mask(side, shift):
    """Returns -100 for tokens that only the cyclic shift made neighbors, else 0: (windows, N,
    N)."""
    line = torch.arange(side)
    region = (line >= side - WINDOW).int() + (line >= side - shift).int()
    grid = 3 * region[:, None] + region
    count = side // WINDOW
    windows = grid.reshape(count, WINDOW, count, WINDOW).transpose(1, 2).reshape(count**2, -1)
    return (windows[:, :, None] != windows[:, None, :]) * -100.0
