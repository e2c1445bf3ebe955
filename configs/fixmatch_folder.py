"""A few labeled images of your own, and many without labels: FixMatch from ImageNet weights.

    python -m vision.main --config configs/fixmatch_folder.py:photos:pictures
    python -m vision.main --config configs/fixmatch_folder.py:photos --config.data.labels=10/class

photos has a folder for each class; pictures, any images, at any depth. Without pictures, those of
photos are learned from without their labels. The weights are EfficientNet-Lite0's, as in
`configs/transfer_folder.py`, which is the same without the pictures. Accuracies on steel defects
with 10 labels for each class are in experiments/fixmatch_neu.
"""

from configs import transfer_folder


def get_config(path="photos", pictures=""):
    c = transfer_folder.get_config(path, "full")
    c.data.unlabeled = f"folder:{pictures}" if pictures else "rest"
    c.data.unlabeled_ratio = 3
    c.objective.name = "consistency"
    c.augment.pad_crop = 12
    c.augment.pad_mode = "reflect"
    c.strong.update(c.augment)
    c.strong.randaugment_layers = 2
    c.strong.randaugment_magnitude = 10.0
    c.strong.random_erasing = 1.0
    c.strong.erasing_area = (0.02, 0.25)
    c.train.steps = 300
    c.train.batch_size = 16
    c.train.eval_batch_size = 64
    c.train.eval_every = 100
    # The best of several by a labeled validation split would use its labels.
    c.checkpoint.metric = "val/step"
    return c
