"""ResNet on your own images: PATH/CLASS/*.jpg, or PATH/{train,val,test}/CLASS/*.jpg.

    python -m vision.main --config configs/resnet_folder.py:PATH        # ResNet-18 from scratch
    python -m vision.main --config configs/resnet_folder.py:PATH:50     # ResNet-50

A starting point, not a paper's recipe: classes weigh the same however many images they have;
training stops when balanced accuracy on the validation split has not risen for ten evaluations.
Flips assume that left and right do not matter. Try other values of `data.image_size` first.
"""

from vision.config import default


def get_config(path="photos", depth="18"):
    c = default()
    c.data.source = f"folder:{path}"
    c.data.image_size = 128
    c.data.crop_fraction = 0.875

    c.augment.random_resized_crop = True
    c.augment.crop_area = (0.5, 1.0)
    c.augment.flip_horizontal = True
    c.augment.brightness = c.augment.contrast = c.augment.saturation = 0.2

    c.model.name = "resnet"
    c.model.variant = depth
    c.objective.class_weights = "inverse"
    c.objective.label_smoothing = 0.1

    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.05
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 5e-4
    c.schedule.name = "warmup_cosine"
    c.schedule.warmup = 0.1

    c.train.epochs = 50.0
    c.train.batch_size = 64
    c.early_stopping.enabled = True
    c.early_stopping.patience = 10
    c.checkpoint.metric = "val/balanced_accuracy"
    return c
