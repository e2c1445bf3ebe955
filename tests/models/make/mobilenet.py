"""Writes references/mobilenet_{timm,torchvision}.npz: the "mu" variant in timm's and in
torchvision's classes."""

import functools

from common import save
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.mobilenetv3 import MobileNetV3 as Timm
from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

blocks = [
    ["ds_r1_k5_s1_e1_c8_se0.25_nre"],
    ["ir_r1_k3_s2_e3_c16_nre", "ir_r1_k3_s1_e2_c16_se0.25"],
    ["cn_r1_k1_s1_c96"],
]
squeeze = functools.partial(
    SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels
)
net = Timm(
    decode_arch_def(blocks),
    7,
    num_features=32,
    stem_size=8,
    act_layer=nn.Hardswish,
    se_layer=squeeze,
)
maps = {"stem": net.bn1} | {f"stages.{i}": stage for i, stage in enumerate(net.blocks)}
save("mobilenet_timm", net, 17, maps, (net.act2, lambda x: x.flatten(1)))

config = functools.partial(InvertedResidualConfig, dilation=1, width_mult=1.0)
blocks = [
    config(8, 5, 8, 8, True, "RE", 1),
    config(8, 3, 24, 16, False, "RE", 2),
    config(16, 3, 32, 16, True, "HS", 1),
]
net = MobileNetV3(blocks, 32, 7)
stem, first, _, second, last = net.features
maps = {"stem": stem, "stages.0": first, "stages.1": second, "stages.2": last}
save("mobilenet_torchvision", net, 16, maps, net.classifier[1])
