"""One config, one training after the other: the representation first, then a head of its own on
balanced batches."""

import pathlib

from vision.config import default
from vision.data.loading.sampler import SAMPLINGS
from vision.errors import check_choice
from vision.run.directory import FIRST


def phases(config, workdir):
    """Returns [(config, workdir), ...] of the trainings that a config asks for; the last one is the
    run's result.

    With `imbalance.retrain_head`, two: the network learns from the images as they come; then it
    stays as it is and a new head learns from class-balanced batches, or as `imbalance.sampling`
    says, with the schedule begun anew. That is cRT of Kang et al. 2019 (arXiv:1910.09217), section
    4.1.

    Raises:
        UserError: an unknown sampling, which the first training would not notice.
    """
    workdir = pathlib.Path(workdir)
    epochs = config.imbalance.retrain_head
    check_choice("imbalance.sampling", config.imbalance.sampling, (*SAMPLINGS, "smote"))
    if not epochs:
        return [(config, workdir)]
    first, second = (config.copy_and_resolve_references() for _ in range(2))
    sampling = config.imbalance.sampling
    first.imbalance.retrain_head = 0.0
    first.imbalance.sampling = "none"
    second.imbalance.sampling = "balanced" if sampling == "none" else sampling
    second.model.pretrained = str(workdir / FIRST)
    second.transfer.mode = "head"
    second.transfer.new_head = True
    second.transfer.depth = default().transfer.depth
    second.transfer.trainable = default().transfer.trainable
    if sampling == "smote":  # of embeddings, which are made once
        second.transfer.cache_embeddings = True
        second.augment = default().augment
        second.data.random_crop_area = ()
        second.train.test_time_augmentation = "none"
        second.model.dropout = 0.0 if second.model.dropout else second.model.dropout
    second.train.epochs = epochs
    second.train.steps = 0
    return [(first, workdir / FIRST), (second, workdir)]
