"""The configs that come with the package are found from anywhere, and find each other."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.support.commands import outcome, refusal
from vision.config import shipped
from vision.config.load import load, nearest_file
from vision.errors import UserError


def test_a_config_of_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped.locate("configs/digits.py") == str(REPOSITORY / "configs" / "digits.py")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.py").touch()
    assert shipped.locate("configs/digits.py") == "configs/digits.py"


@pytest.mark.parametrize(
    "path",
    ["digits.py", "configs/nothing.py", "configs/../README.md", "", "a/configs/x.py"],
)
def test_other_paths_stay_as_they_are(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped.locate(path) == path


def test_a_missing_file_names_the_nearest_that_is_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert nearest_file("configs/digit.py") == "; did you mean 'configs/digits.py'?"
    with pytest.raises(UserError, match=r"did you mean 'configs/vit_cifar10\.py'"):
        load("configs/vit_cifar.py")


def test_a_copy_elsewhere_imports_its_siblings(tmp_path):
    """As in a wheel, where no folder `configs` is on the path."""
    for name in ("vision", "configs"):
        (tmp_path / "site" / name).parent.mkdir(exist_ok=True)
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "import pathlib\n"
        "from vision.config import shipped\n"
        "shipped.folder = lambda: pathlib.Path(sys.argv[2])\n"
        "from vision.config.load import load\n"
        "print(load('configs/fixmatch_folder.py:photos').data.source)"
    )
    (tmp_path / "site" / "vision").symlink_to(REPOSITORY / "vision")
    (tmp_path / "elsewhere").symlink_to(REPOSITORY / "configs")
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, tmp_path / "site", tmp_path / "elsewhere"],
        cwd=tmp_path,
        env={"PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "folder:photos\n", done.stderr


def test_the_list_has_the_title_of_each(capsys):
    code, out, _ = outcome(shipped.main, capsys, "own images")
    assert code == 0
    assert "configs/resnet_folder.py" in out and "ResNet on your own images" in out
    assert len(outcome(shipped.main, capsys)[1].splitlines()) == len(shipped.names())
    assert "no config has 'qqq'" in refusal(shipped.main, capsys, "qqq")
