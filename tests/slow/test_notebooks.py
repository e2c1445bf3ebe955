"""The notebooks of examples/ run from the first cell to the last, in an empty directory."""

import os
import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "examples").glob("*.ipynb"))
TIMEOUT = 1800  # seconds a cell, on a machine that is busy


def text_of(cell):
    """Returns what a cell has printed, and its value as text."""
    return "".join(o.get("text", o.get("data", {}).get("text/plain", "")) for o in cell.outputs)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request, tmp_path, monkeypatch):
    """(name, the cells of code after they ran)."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as on a laptop
    notebook = nbformat.read(request.param, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=TIMEOUT, resources=resources).execute()
    return request.param.stem, [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_a_notebook_runs_and_says_what_its_text_says(executed):
    name, cells = executed
    text = "\n".join(map(text_of, cells))
    if name == "own_images":
        accuracy = float(re.search(r"'accuracy': ([\d.]+)", text)[1])
        assert accuracy > 0.6  # of three classes
        assert "Accuracy: " in text and "report: runs/photos/evaluation/report.html" in text
    elif name == "own_model_and_objective":
        accuracies = [float(a) for a in re.findall(r"^\w+ +accuracy ([\d.]+)", text, re.MULTILINE)]
        assert len(accuracies) == 2 and min(accuracies) > 0.5  # of ten classes, from 50 labels
    else:
        assert "'bundle.json'" in text and "a bundle)" in text and "exit code 0" in text
        served = re.search(r"'top': \[\{'class': '(\d)'", text)[1]
        assert served == re.search(r"Prediction\((\d) ", text)[1] == "7"


def test_the_outputs_that_are_committed_are_of_these_cells():
    """Every cell of code has run, in order, and nothing of a machine is in what it printed."""
    assert [path.stem for path in NOTEBOOKS] == [
        "own_images",
        "own_model_and_objective",
        "run_to_server",
    ]
    for path in NOTEBOOKS:
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1)), path
        assert not any(re.search(r"/(tmp|home|root|work)/", text_of(cell)) for cell in cells), path
        assert path.stat().st_size < 500_000
