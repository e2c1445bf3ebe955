"""How much augmentation gains, and how much faster pretrained weights learn."""

from experiments.run import Row

DATA = "runs/neu/split"  # of the rows on NEU; the others have their own
PLAIN = {"augment.pad_crop": 0, "augment.flip_horizontal": False}
CIFAR10 = {"train.steps": 6400, "schedule.name": "cosine"}
NO_AFFINE = {"augment.affine": False}
# The same for both rows, as ImageNet's weights need it; averaged weights would lag behind.
NEU = {
    "data.image_size": 96,
    "data.crop_fraction": 0.875,
    "data.interpolation": "bicubic",
    "data.normalize": "mean_std",
    "data.mean": (127 / 255,) * 3,
    "data.std": (128 / 255,) * 3,
    "model.dropout": 0.0,
    "model.options.padding": "same",
    "model.options.norm_epsilon": 1e-3,
    "train.steps": 468,
    "train.batch_size": 32,
    "train.eval_batch_size": 59,
    "train.eval_every": 6,
    "optimizer.ema": 0.0,
}
REACH = 90.0


def _neu(name: str, way: str) -> Row:
    return Row(f"NEU, {name}", "configs/transfer_folder.py:{data}:" + way, NEU, reach=REACH)


ROWS = (
    Row("mnist5k, ViT, not augmented", "configs/vit_mnist5k.py", NO_AFFINE),
    Row("mnist5k, ViT, augmented", "configs/vit_mnist5k.py"),
    Row("mnist5k, ResNet-20, not augmented", "configs/resnet_mnist5k.py", NO_AFFINE),
    Row("mnist5k, ResNet-20, augmented", "configs/resnet_mnist5k.py"),
    Row("CIFAR-10, ResNet-20, not augmented", "configs/resnet_cifar10.py", CIFAR10 | PLAIN),
    Row("CIFAR-10, ResNet-20, augmented", "configs/resnet_cifar10.py", CIFAR10),
    _neu("from scratch", "scratch"),
    _neu("pretrained", "full"),
)
