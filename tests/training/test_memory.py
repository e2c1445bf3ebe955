"""Which old images are remembered: herding against the paper's algorithm, on real embeddings."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from vision.config import default
from vision.data.sources import open_splits
from vision.inference import from_run
from vision.parallel import make_mesh
from vision.training.memory import chooser, herd


def algorithm_4(embeddings, count):
    """Rebuffi et al. 2016, as it is printed: the mean of those chosen and of each candidate."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    units = embeddings / np.maximum(lengths, 1e-12)
    chosen = []
    for k in range(1, count + 1):
        means = (units[chosen].sum(0) + units) / k
        distances = np.linalg.norm(units.mean(0) - means, axis=1)
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
    return chosen


@pytest.fixture(scope="module")
def embeddings(tiny_run):
    """Those of 180 digits of all classes by a trained network, float32 (180, 32)."""
    digits = open_splits("digits")["all"]
    return from_run(tiny_run)(np.stack([digits[i]["image"] for i in range(180)]))[1]


def test_herding_chooses_as_the_paper(embeddings):
    assert herd(embeddings, 180).tolist() == algorithm_4(embeddings.astype(np.float64), 180)
    assert herd(embeddings[:5], 20).tolist() == algorithm_4(embeddings[:5].astype(np.float64), 5)


def test_vectors_of_zeros_and_duplicates(embeddings):
    """Zeros stay zeros, so that not all vectors have length 1; of equal ones the first is taken."""
    rows = np.concatenate([np.zeros((3, 32)), embeddings[:20], embeddings[:20]])
    chosen = herd(rows, 43).tolist()
    assert sorted(chosen) == list(range(43))
    assert all(chosen.index(i) < chosen.index(i + 20) for i in range(3, 23))
    assert chosen[:10] == algorithm_4(rows, 10)


@pytest.mark.filterwarnings("error")
def test_a_class_without_images():
    assert herd(np.zeros((0, 32), np.float32), 5).tolist() == []


@pytest.mark.parametrize(("devices", "resident_gib"), [(1, 2.0), (3, 0.0)])
def test_images_of_files(devices, resident_gib, tiny_run, embeddings, tmp_path):
    """Decoded in this process or in others; one cannot be read, and is not remembered."""
    digits = open_splits("digits")["all"]
    for i in range(60):
        folder = tmp_path / str(digits.labels[i])
        folder.mkdir(exist_ok=True)
        Image.fromarray(digits[i]["image"][..., 0]).save(folder / f"{i:02}.png")
    source = open_splits(f"folder:{tmp_path}")["all"]
    places = {int(pathlib.Path(source.name(i)).stem): i for i in range(60)}
    rows = {label: np.flatnonzero(digits.labels[:60] == label) for label in range(10)}
    first = rows[3][herd(embeddings[rows[3]], 1)[0]]
    (tmp_path / "3" / f"{first:02}.png").write_bytes(b"")
    rows[3] = rows[3][rows[3] != first]
    c = default()
    c.continual.previous = str(tiny_run)
    c.continual.memory = "2/class"
    c.data.resident_gib = resident_gib
    choose = chooser(c, make_mesh(devices))
    best = {label: members[herd(embeddings[members], 2)] for label, members in rows.items()}
    expected = [places[best[label][k]] for k in range(2) for label in rows]
    assert choose(source).tolist() == expected
