"""Writes references/alexnet.npz: torchvision's AlexNet with other widths, on gray images whose last
map is 3x3."""

import torch
from common import save
from torch import nn
from torchvision.models import AlexNet

with torch.device("meta"):  # its own layers, which the narrow ones replace, are never made
    net = AlexNet()
for i, (features_in, features) in {0: (1, 4), 3: (4, 8), 6: (8, 8), 8: (8, 6), 10: (6, 8)}.items():
    old = net.features[i]
    net.features[i] = nn.Conv2d(features_in, features, old.kernel_size, old.stride, old.padding)
for i, (features_in, features) in {1: (8 * 36, 16), 4: (16, 16), 6: (16, 5)}.items():
    net.classifier[i] = nn.Linear(features_in, features)
# What leaves a ReLU or a pooling: no layer after it writes into it.
features = {f"stages.{i}": net.features[j] for i, j in enumerate((5, 7, 9, 12))}
save(
    "alexnet",
    net,
    127,
    {"stem": net.features[2]} | features,
    net.classifier[5],
    batch=1,
    channels=1,
)
