"""Images and captions: drawings with titles, and CIFAR-10's classes by their names."""

from experiments.run import Row

DATA = "openclipart.parquet"
DRAWINGS = "configs/clip_openclipart.py:{data}"
CIFAR10 = "configs/clip_cifar10.py"
LOSSES = {"clip": "CLIP", "siglip": "SigLIP"}
SHORT = {"train.steps": 2000, "train.eval_every": 1000}  # a third of the config's

ROWS = tuple(
    Row(f"Open Clip Art, {title}", f"{DRAWINGS}:{loss}", zero_shot=True, retrieval=True)
    for loss, title in LOSSES.items()
)
# As JPEG q75, if TFDS' copy is made from such files: say so beside the figure.
ROWS += tuple(
    Row(f"CIFAR-10, ResNet-20, {title}", f"{CIFAR10}:{loss}", SHORT, zero_shot=True)
    for loss, title in LOSSES.items()
)
ROWS += (Row("CIFAR-10, ResNet-20, supervised", f"{CIFAR10}:supervised", SHORT),)
