"""Writes references/efficientnet_*.npz: the "mu" variants in timm's, torchvision's and
EfficientNet-PyTorch's classes.

The last is https://github.com/lukemelas/EfficientNet-PyTorch, in the package
efficientnet_lite_pytorch, which has EfficientNet too; its padding is TensorFlow's.
"""

import functools

from common import nhwc, save
from efficientnet_lite_pytorch import EfficientNet as Lukemelas
from efficientnet_lite_pytorch.utils import BlockDecoder, GlobalParams
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet as Timm
from torch import nn
from torchvision.models.efficientnet import EfficientNet, MBConvConfig


def flat(x):
    return x.flatten(1)


def timm(name, squeeze, act, side):
    blocks = [[f"ds_r1_k5_s1_e1_c8{squeeze}"], [f"ir_r2_k3_s2_e4_c16{squeeze}"]]
    net = Timm(decode_arch_def(blocks), 7, num_features=32, stem_size=8, act_layer=act)
    stages = {f"stages.{i}": stage for i, stage in enumerate(net.blocks)}
    save(name, net, side, {"stem": net.bn1, **stages, "last": net.bn2}, net.global_pool)


def lukemelas(name, squeeze, act, side):
    """Hooks the first and the last norm: the activation after them is no module that is called
    once."""
    blocks = BlockDecoder.decode([f"r1_k5_s11_e1_i8_o8{squeeze}", f"r2_k3_s22_e4_i8_o16{squeeze}"])
    # Its ends have 32 and 1280 channels: they are replaced.
    common = {
        "batch_norm_momentum": 0.99,
        "batch_norm_epsilon": 1e-3,
        "dropout_rate": 0.2,
        "num_classes": 7,
    }
    settings = GlobalParams(
        width_coefficient=None,
        depth_coefficient=None,
        image_size=side,
        relu_fn=act,
        fix_head_stem=False,
        **common,
    )
    net = Lukemelas(blocks, settings)
    # It compares a first block's [1] with 1, and so leaves out a shortcut that no published variant
    # could have there.
    net._blocks[0]._block_args = net._blocks[0]._block_args._replace(stride=1)
    net._conv_stem = type(net._conv_stem)(
        3, 8, kernel_size=3, stride=2, bias=False, image_size=side
    )
    net._bn0 = nn.BatchNorm2d(8, eps=1e-3)
    net._conv_head = type(net._conv_head)(
        16, 32, kernel_size=1, bias=False, image_size=(side + 3) // 4
    )
    net._bn1 = nn.BatchNorm2d(32, eps=1e-3)
    net._fc = nn.Linear(32, 7)
    activate = nn.functional.relu6 if act == "relu6" else nn.functional.silu
    after = lambda x: nhwc(activate(x))  # noqa: E731
    maps = {"stem": (net._bn0, after), "stages.0": net._blocks[0], "stages.1": net._blocks[2]}
    save(name, net, side, maps | {"last": (net._bn1, after)}, (net._avg_pooling, flat))


timm("efficientnet_timm", "_se0.25", nn.SiLU, 17)
timm("efficientnet_lite_timm", "", nn.ReLU6, 17)
lukemelas("efficientnet_lukemelas", "_se0.25", "swish", 16)
lukemelas("efficientnet_lite_lukemelas", "", "relu6", 14)

blocks = [MBConvConfig(1, 5, 1, 8, 8, 1), MBConvConfig(4, 3, 2, 8, 16, 2)]
norm = functools.partial(nn.BatchNorm2d, eps=1e-3)
net = EfficientNet(blocks, 0.2, num_classes=7, norm_layer=norm, last_channel=32)
stem, first, second, last = net.features
save(
    "efficientnet_torchvision",
    net,
    18,
    {"stem": stem, "stages.0": first, "stages.1": second, "last": last},
    (net.avgpool, flat),
)
