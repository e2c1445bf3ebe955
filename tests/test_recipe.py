"""`vision train photos/`: a config is chosen, written into the run, and what follows is said."""

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.commands import outcome, refusal
from vision import main, recipe
from vision.config.load import load
from vision.data.sources import compose, members, open_splits, parse

QUICK = (
    "--config.train.steps=1",
    "--config.data.image_size=32",
    "--config.parallel.devices=1",
    "--config.log.tensorboard=False",
    "--config.log.progress=False",
    "--config.model.pretrained=",  # a small network: EfficientNet takes minutes to compile
    "--config.model.name=mlp",
    "--config.model.variant=mu",
    "--config.transfer.mode=full",
    "--config.transfer.depth=0",
)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The folder "photos" with 20 images of 120 px in two classes, below the working directory."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            image = random.integers(0, 255, (120, 100, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "photos" / name / f"{i}.png"), image)
    return tmp_path / "photos"


def test_a_folder_needs_no_kind(photos):
    assert parse("photos") == ("folder", "photos", {})
    assert parse("photos/?level=1") == ("folder", "photos/", {"level": "1"})
    assert parse("fotos") == ("fotos", "", {})
    assert list(open_splits("photos")["all"].classes) == ["cat", "dog"]
    (photos.parent / "digits").mkdir()
    assert parse("digits") == ("digits", "", {})  # the kind; ./digits is the folder
    assert compose(*parse("./digits")) == "folder:./digits"


def test_folders_are_joined_or_have_a_plus_in_their_name(photos):
    for name in ("more", "black + white"):
        (photos.parent / name).mkdir()
    assert members("photos + more") == ["photos", "more"]
    assert members("folder:photos + more?level=1 + digits") == [
        "folder:photos",
        "more?level=1",
        "digits",
    ]
    assert members("black + white") == ["black + white"]
    assert members("folder:black + white + photos") == ["folder:black + white", "photos"]
    assert members("folder:a + b") == ["folder:a + b"]


def test_weights_that_are_installed_are_transferred(photos):
    choice = recipe.choose("folder:photos")
    assert choice.config.model.pretrained and choice.config.data.image_size == 224
    assert choice.start.startswith("transfer learning from EfficientNet-Lite0's")


def test_on_a_cpu_the_last_blocks_learn(photos, monkeypatch):
    monkeypatch.setattr(recipe, "has_accelerator", lambda: False)
    choice = recipe.choose("folder:photos")
    assert choice.config.transfer.mode == "partial" and choice.config.transfer.depth == 5
    # 14 of 20 images learn: 75 steps of 32 are 171 epochs
    assert choice.config.train.epochs == round(75 * 32 / 14)
    words = "the head and the last 5 blocks learn, on a CPU faster than all layers"
    assert words in choice.lines("run")[0] and words in choice.text("vision train photos")
    choice.config.transfer.depth = 3  # the reason is that of five
    assert "; the head and the last 3 blocks learn; 224 px" in choice.lines("run")[0]
    choice.config.transfer.mode = "full"
    choice.config.transfer.depth = 0
    assert "; all layers learn;" in choice.lines("run")[0]


def test_on_an_accelerator_all_layers_learn(photos, monkeypatch):
    monkeypatch.setattr(recipe, "has_accelerator", lambda: True)
    choice = recipe.choose("folder:photos")
    assert choice.config.transfer.mode == "full" and not choice.config.transfer.depth
    assert "; all layers learn;" in choice.lines("run")[0]


def test_without_weights_it_is_a_resnet(photos, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    choice = recipe.choose("folder:photos")
    assert choice.config.model.name == "resnet" and not choice.config.model.pretrained
    assert choice.start.startswith("ResNet from scratch") and "is not installed" in choice.start
    assert "learn" not in choice.lines("run")[0]


def test_photos_are_not_turned_upside_down(photos, monkeypatch):
    choice = recipe.choose("folder:photos")
    assert choice.config.augment.flip_horizontal and not choice.config.augment.flip_vertical
    assert choice.lines("run")[0].endswith(" epochs, mirrored left to right")
    choice.config.augment.flip_vertical = True
    assert choice.lines("run")[0].endswith(", mirrored left to right and upside down")
    choice.config.augment.flip_horizontal = choice.config.augment.flip_vertical = False
    assert choice.lines("run")[0].endswith(", not mirrored")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no weights: a ResNet
    assert not recipe.choose("folder:photos").config.augment.flip_vertical


def test_small_images_are_not_made_large():
    assert recipe.choose("digits").config.data.image_size == recipe.SMALL
    assert recipe.choose("digits").config.train.epochs == 12


def test_the_run_has_its_config_and_the_next_commands_are_printed(photos, capsys):
    code, out, err = outcome(main.main, capsys, "photos/", "--workdir=run", *QUICK)
    assert code == 0, err
    first, second, *_ = out.splitlines()
    assert first.startswith("folder:photos: transfer learning")
    assert second.startswith("config: run/config.py;")
    config = load("run/config.py")
    assert config.data.source == "folder:photos" and config.train.steps == 1
    following = out.partition("next:\n")[2]
    assert "python -m vision.export --workdir run --out models/photos/1" in following
    code, out, err = outcome(main.main, capsys, "photos", "--workdir=run", *QUICK)
    assert code == 0 and "finished already" in out, err


def test_a_source_takes_the_place_of_the_configs_data(photos, capsys):
    (photos / "cat" / "0.png").write_bytes(b"")
    config = f"{REPOSITORY}/configs/resnet_folder.py:nowhere:smoke"
    argv = ("--config", config, "photos", *QUICK)
    message = refusal(main.main, capsys, *argv, "--config.data.max_unreadable=0")
    assert "nowhere" not in message and "0.png" in message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "train on what?"),
        (["fotos"], "there is no folder 'fotos'"),
        (["./fotos"], "there is no folder './fotos'"),
        (["table.csv"], "csv:table.csv"),
        (["photos", "more"], "'photos + more'"),
        (["mine.py:arg"], "--config mine.py:arg"),
        (["photos/cat"], "has no images in class folders"),
        (["photos", "--config.train.stps=1"], "train.steps"),
    ],
)
def test_mistakes_are_one_message(argv, words, photos, capsys):
    (photos.parent / "table.csv").touch()
    assert words in refusal(main.main, capsys, *argv)
    assert not (photos.parent / "runs").exists()


def test_names_of_models_are_plain():
    assert recipe.title("folder:/data/My photos/?level=1") == "My_photos"
    assert recipe.title("tfds:cifar10") == "cifar10"
    assert recipe.title("digits") == "digits"
