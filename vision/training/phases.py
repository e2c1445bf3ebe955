"""The trainings that a config asks for: one, or the representation first and then a new head."""

import pathlib

from ml_collections import ConfigDict

from vision.config import default
from vision.data.loading.sampler import SAMPLINGS
from vision.errors import UserError, check_choice
from vision.run.directory import FIRST


def phases(
    config: ConfigDict, workdir: pathlib.Path | str
) -> list[tuple[ConfigDict, pathlib.Path]]:
    """Returns [(config, workdir), ...] of the trainings that a config asks for.

    The last one gives the run's result. With `imbalance.retrain_head` there are two: the network
    learns from the images as they come; then it is frozen, and a new head learns from
    class-balanced batches, or as `imbalance.sampling` says, with a new schedule. This is cRT of
    Kang et al. 2019 (arXiv:1910.09217), section 4.1.

    Raises:
        UserError: the sampling is unknown, which the first training would not notice; or the
            directory holds the first of two trainings, and one is asked for.
    """
    workdir = pathlib.Path(workdir)
    sampling = config.imbalance.sampling
    check_choice("imbalance.sampling", sampling, (*SAMPLINGS, "smote"))
    if not config.imbalance.retrain_head:
        if (workdir / FIRST / "config.json").is_file():
            raise UserError(
                f"{workdir} holds the first of two trainings, {FIRST}/: give "
                "imbalance.retrain_head as it was begun with, or another directory"
            )
        return [(config, workdir)]
    first = config.copy_and_resolve_references()
    first.imbalance.retrain_head = 0.0
    first.imbalance.sampling = "none"
    second = config.copy_and_resolve_references()
    second.imbalance.sampling = "balanced" if sampling == "none" else sampling
    second.model.pretrained = str(workdir / FIRST)
    second.transfer.mode = "head"
    second.transfer.new_head = True
    second.transfer.depth = default().transfer.depth
    second.transfer.trainable = default().transfer.trainable
    if sampling == "smote":
        _cache_embeddings(second)
    second.train.epochs = config.imbalance.retrain_head
    second.train.steps = 0
    return [(first, workdir / FIRST), (second, workdir)]


def _cache_embeddings(config: ConfigDict) -> None:
    """Lets a head learn from embeddings that are computed once, so from unaugmented images."""
    config.transfer.cache_embeddings = True
    config.augment = default().augment
    config.data.random_crop_area = ()
    config.train.test_time_augmentation = "none"
    if config.model.dropout:
        config.model.dropout = 0.0
