"""What the methods start from: data with a field, a trained teacher, and a file of weights."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.objectives.runs import small
from vision.continual.importance import write_fisher
from vision.data.sources import open_splits
from vision.training.run import run


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Digits with texts as an .npz file, a trained teacher, and an anchor's weights."""
    folder = tmp_path_factory.mktemp("contract")
    digits = open_splits("digits")["all"]
    generator = np.random.RandomState(0)
    np.savez(
        folder / "texts.npz",
        images=digits.images[:200],
        labels=digits.labels[:200],
        fields_text=generator.rand(200, 5).astype(np.float32),
    )
    teacher = small(f"arrays:{folder / 'texts.npz'}")
    teacher.model.name = "tests.support.tiny_resnet"
    teacher.train.steps = 6
    run(teacher, folder / "teacher")
    fisher = write_fisher(str(folder / "teacher"), images=40)
    shutil.copy(fisher, fisher.with_name("si.safetensors"))
    width = 32
    save_file(
        {
            "kernel": generator.randn(width, 8).astype(np.float32),
            "bias": np.zeros(8, np.float32),
        },
        folder / "anchor.safetensors",
    )
    return folder
