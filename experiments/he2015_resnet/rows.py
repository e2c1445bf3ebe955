"""ResNets on CIFAR-10: He et al. 2015, table 6."""

from experiments.run import Row

DATA = "tfds:cifar10"
CONFIG = "configs/resnet_cifar10.py"
FLAGS = {"data.source": "{data}"}
SHORT = FLAGS | {"train.steps": 16_000, "schedule.name": "cosine"}
PAPER = {32: "92.49", 44: "92.83", 56: "93.03", 110: "93.57 (mean of five 93.39)"}

ROWS = (
    Row("ResNet-20, 64,000 steps", f"{CONFIG}:20", FLAGS, "91.25", seeds=1),
    Row("ResNet-20, 16,000 steps, cosine", f"{CONFIG}:20", SHORT, "91.25 (64,000 steps)"),
    *(
        Row(f"ResNet-{depth}, 64,000 steps", f"{CONFIG}:{depth}", FLAGS, paper, 1, large=True)
        for depth, paper in PAPER.items()
    ),
)
