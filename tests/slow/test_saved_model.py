"""A SavedModel gives in TensorFlow what JAX gives: in an environment of its own, as TensorFlow is
in no other test."""

import os
import pathlib
import subprocess
import sys
import sysconfig

import pytest

from tests.conftest import REPOSITORY

CODE = """
import sys
from tests.support.programs import images, linear, program_of
from tests.support.classifiers import classifier
from vision.errors import UserError
from vision.export import saved_model
from vision.export.check import compare
from vision.export.program import served

for name in ("cnn", "vit", "resnet"):
    program = served(classifier(name))
    path = f"{sys.argv[1]}/{name}"
    for batch in (0, 3):
        saved_model.write(program, path, batch)
        run = saved_model.load(path)
        print(name, compare(program, run, images(4, program.image_size)))
branching = program_of(lambda images: linear(images[::-1] if images.shape[0] > 2 else images))
for wrong in (
    lambda: saved_model.load(sys.argv[1]),
    lambda: saved_model.write(branching, f"{sys.argv[1]}/branching"),
):
    try:
        wrong()
    except UserError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python with this environment's packages and TensorFlow."""
    folder = tmp_path_factory.mktemp("tensorflow")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    pathlib.Path(site.strip(), "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "-c",
        REPOSITORY / "constraints.txt",
        "tensorflow-cpu",
    ]
    done = subprocess.run(list(map(str, pip)), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"TensorFlow cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return python


def test_it_gives_what_jax_gives(python, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    command = [str(python), "-c", CODE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, damaged, branching = done.stdout.splitlines()
    differences = [(name, float(difference)) for name, difference in map(str.split, lines)]
    assert [name for name, _ in differences] == ["cnn", "cnn", "vit", "vit", "resnet", "resnet"]
    assert max(difference for _, difference in differences) < 1e-5
    assert damaged == f"{tmp_path} cannot be loaded: export it again"
    assert branching.startswith("this model cannot be exported for any number of images")
