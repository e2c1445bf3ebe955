"""A pruned model is the masked dense one, in every architecture; and a run that is exported and
trains on."""

import numpy as np
import pytest

from tests.support.masked import CASES, FEW_PRUNABLE, check, make
from vision.compression import cut, importance, latency
from vision.compression.groups import find_groups
from vision.data.pipeline import open_data
from vision.inference import from_run
from vision.models import surgery
from vision.parallel import make_mesh
from vision.run.directory import open_workdir, read_run, write_data
from vision.training.loop import train


@pytest.mark.parametrize("case", CASES)
def test_a_pruned_model_is_the_masked_dense_one(case):
    check(case)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A source of 5 classes: 8 images of each split."""
    random = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = random.integers(0, 256, (8, 16, 16, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(8) % 5
    file = tmp_path_factory.mktemp("noise") / "noise.npz"
    np.savez(file, **arrays)
    return f"arrays:{file}"


def begin(case, source, workdir):
    """Writes the pruned run of an architecture with random weights into WORKDIR/half; returns its
    record."""
    original, arrays = make(case)
    c = original.config
    c.data.source = source
    c.data.image_size = original.image_size
    c.train.steps = 1
    c.train.batch_size = 8
    c.train.eval_every = 1
    c.optimizer.learning_rate = 1e-3
    c.log.tensorboard = False
    c.log.progress = False
    # Without LLVM's optimizations, as in tests/conftest.py, XLA's gradient of CBAM's maxima is not
    # finite, dense too.
    c.parallel.xla_options = "xla_backend_optimization_level=1" if case == "resnet_cbam" else ""
    write_data(open_workdir(workdir / "whole", c), open_data(c, make_mesh(1)))
    groups = find_groups(original.model, original.image_size, 3)
    ratio = 0.1 if case in FEW_PRUNABLE else 0.3
    pruned = cut.prune(original, groups, importance.l1(groups, arrays), cut.Goal(ratio))
    cut.write(pruned, workdir / "whole", workdir / "half")
    return pruned.record


@pytest.mark.parametrize("case", CASES)
def test_a_pruned_run_is_exported_and_resumes_training(case, noise, tmp_path):
    """From its checkpoint, in its own directory, with its own config."""
    record = begin(case, noise, tmp_path)
    half = tmp_path / "half"
    mesh = make_mesh(1)
    before = from_run(half)
    assert surgery.count(before.model)[0] == record["counts"]["parameters"][1]
    config, _ = read_run(half)
    assert train(config, open_data(config, mesh), half, mesh).steps == 1
    after = from_run(half)
    assert after.step == 1
    first, second = (
        {name: np.asarray(v.get_value()) for name, v in surgery.variables(classifier.model).items()}
        for classifier in (before, after)
    )
    assert {name: a.shape for name, a in first.items()} == {
        name: a.shape for name, a in second.items()
    }
    # with random weights, some units are dead
    assert sum((first[name] != second[name]).any() for name in first) > 4
    images = np.random.default_rng(1).integers(
        0, 256, (2, after.image_size, after.image_size, 3), np.uint8
    )
    probabilities, embeddings = after.probabilities_and_embeddings(images)
    assert probabilities.shape == (2, 5) and np.isfinite(probabilities).all()
    scale = np.abs(embeddings).max()
    np.testing.assert_allclose(
        latency.exported(after)(images)[1] / scale, embeddings / scale, atol=1e-4
    )
