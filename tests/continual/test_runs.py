"""Runs that go on from each other, as their user trains them."""

import functools
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.support.mlp_config import mlp_config
from vision.continual.__main__ import main as sequence
from vision.continual.importance import DAMPING, fisher_settings, is_measured, write_fisher
from vision.continual.importance import main as importance
from vision.data.division import read_division
from vision.data.sources import folder as folders
from vision.data.sources import open_splits
from vision.errors import UserError
from vision.evaluation.__main__ import main as evaluate
from vision.run.checkpoints import open_checkpoints
from vision.run.directory import read_run
from vision.run.weights import run_weights
from vision.training.run import run

pytestmark = pytest.mark.long

QUICK = ("corruptions=false", "views=false", "probe=0", "map=none", "bootstrap=2", "slices=false")
CLASSES = {"old": range(3), "new": range(3, 5)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders of digits: old has 0 to 2, new 3 and 4; and a run on old."""
    root = tmp_path_factory.mktemp("continual")
    digits = open_splits("digits")["all"]
    for folder, labels in CLASSES.items():
        for label in labels:
            (root / folder / str(label)).mkdir(parents=True)
            for i in np.flatnonzero(digits.labels == label)[:60]:
                image = Image.fromarray(digits[int(i)]["image"][..., 0])
                image.save(root / folder / str(label) / f"{i}.png")
    run(config(root), root / "first")
    return root


def config(root, folder="old", previous="", **options):
    c = mlp_config(f"folder:{root / folder}", 60)
    if previous:
        c.continual.previous = str(root / previous)
        c.objective.name = "continual"
        c.objective.options.update(options)
    return c


def test_new_classes_are_learned_and_old_ones_remembered(root, tmp_path, capsys):
    c = config(root, "new", "first", lwf=1.0)
    c.continual.memory = "10/class"
    result = run(c, tmp_path / "run")
    output = capsys.readouterr().out
    assert "30 memory" in output and "points forgotten" in output
    old, new = result["continual"]["tasks"]
    assert result["continual"]["remembered"] == 30 and new["classes"] == ["3", "4"]
    assert old["before"] == json.loads((root / "first/result.json").read_text())["accuracy"]
    assert old["accuracy_within_task"] >= old["accuracy"] > 0.8 and new["accuracy"] > 0.8
    images = old["images"] + new["images"]
    total = (old["accuracy"] * old["images"] + new["accuracy"] * new["images"]) / images
    assert total == pytest.approx(result["accuracy"])
    _, data = read_run(tmp_path / "run")
    assert data["classes"] == ["0", "1", "2", "3", "4"]
    assert data["splits"]["memory"]["images"] == 30
    evaluate(["--workdir", str(tmp_path / "run"), *(f"--config.evaluation.{k}" for k in QUICK)])
    assert (tmp_path / "run/evaluation/report.html").is_file()


def test_without_a_memory_old_classes_are_forgotten(root, tmp_path):
    result = run(config(root, "new", "first", lwf=0.0), tmp_path / "run")
    old, new = result["continual"]["tasks"]
    assert old["before"] > 0.8 and old["accuracy"] < 0.4 and new["accuracy"] > 0.8
    assert result["continual"]["remembered"] == 0


def test_the_head_grows(root, tmp_path):
    c = config(root, "new", "first")
    c.optimizer.learning_rate = 0.0
    run(c, tmp_path / "run")
    before = run_weights(root / "first")[2]
    after = run_weights(tmp_path / "run")[2]
    assert after["head.kernel"].shape[1] == 5
    np.testing.assert_array_equal(after["head.kernel"][:, :3], before["head.kernel"])
    np.testing.assert_array_equal(after["head.bias"][:3], before["head.bias"])
    np.testing.assert_array_equal(after["layers.0.kernel"], before["layers.0.kernel"])
    assert np.abs(after["head.kernel"][:, 3:]).min() > 0


def test_new_images_in_the_same_folder(root, tmp_path):
    """Somebody adds a class to the folder that the run was trained on."""
    shutil.copytree(root / "old", tmp_path / "photos")
    first = config(root)
    first.data.source = f"folder:{tmp_path / 'photos'}"
    first.train.steps = 4
    run(first, tmp_path / "first")
    shutil.copytree(root / "new/4", tmp_path / "photos/-4")  # sorts before the others
    c = config(root, "old", "first")
    c.continual.previous = str(tmp_path / "first")
    c.data.source = first.data.source
    c.train.steps = 4
    result = run(c, tmp_path / "second")
    assert result["split_sizes"]["train"] < 60
    assert result["continual"]["tasks"][1]["classes"] == ["-4"]
    assert result["classes"] == ["0", "1", "2", "-4"]
    assert read_run(tmp_path / "second")[0].data.source == first.data.source
    (tmp_path / "second/result.json").unlink()
    assert run(c, tmp_path / "second")["confusion"] == result["confusion"]


def test_a_renamed_image_stays_among_those_to_learn_from(root, tmp_path):
    shutil.copytree(root / "old", tmp_path / "photos")
    first = config(root)
    first.data.source = f"folder:{tmp_path / 'photos'}"
    first.train.steps = 4
    run(first, tmp_path / "first")
    division = read_division(tmp_path / "first/splits.csv.gz")
    for name in division["train"].names[:40]:
        file = tmp_path / "photos" / name
        file.rename(file.with_name(f"renamed-{file.name}"))
    c = config(root, "new", "first")
    c.continual.previous = str(tmp_path / "first")
    c.train.steps = 4
    run(c, tmp_path / "second")
    division = read_division(tmp_path / "second/splits.csv.gz")
    renamed = {s: [n for n in m.names if "renamed" in n] for s, m in division.items()}
    assert [split for split, names in renamed.items() if names] == ["train"]
    assert any(name.startswith("2:") for name in division["test"].names)


@pytest.mark.parametrize(("memory", "remembered"), [("", [0, 0]), ("8/class", [16, 32])])
def test_what_is_forgotten_does_not_come_back(memory, remembered, tmp_path):
    workdir = tmp_path / "first"
    sources = [f"digits?classes={a},{a + 1}" for a in (0, 2, 4)]
    images = []
    for number, source in enumerate(sources):
        c = config(tmp_path)
        c.data.source = source
        c.train.steps = 4
        if number:
            c.continual.previous = str(workdir)
            c.continual.memory = memory
            c.continual.selection = "random"
            c.objective.name = "continual"
            workdir = tmp_path / f"run-{number}"
        result = run(c, workdir)
        images.append((result["split_sizes"]["train"], result["split_sizes"].get("memory", 0)))
    alone = [len(open_splits(source)["all"]) for source in sources]
    assert [memory for _, memory in images] == [0, *remembered]
    for (train, _), count in zip(images, alone, strict=True):
        assert train == pytest.approx(0.7 * count, abs=2)
    division = read_division(workdir / "splits.csv.gz")
    names = np.concatenate([members.names for members in division.values()])
    assert len(names) == len(set(names)) == sum(alone)
    (workdir / "result.json").unlink()
    assert run(c, workdir)["confusion"] == result["confusion"]
    assert set(read_division(workdir / "splits.csv.gz")) == set(division)


def test_old_images_may_be_gone(root, tmp_path):
    shutil.copytree(root / "first", tmp_path / "first")
    c = config(root, "new", "first", lwf=1.0)
    c.continual.previous = str(tmp_path / "first")
    c.continual.old_data = False
    c.train.steps = 8
    result = run(c, tmp_path / "run")
    old, new = result["continual"]["tasks"]
    assert old["images"] == 0 and old["accuracy"] is None and new["images"] > 0
    assert len(result["classes"]) == 5
    (tmp_path / "run/result.json").unlink()
    shutil.rmtree(tmp_path / "first")
    again = run(c, tmp_path / "run")
    assert again["confusion"] == result["confusion"]
    assert again["continual"]["tasks"][1] == new


def test_it_resumes_without_the_run_before(root, tmp_path):
    shutil.copytree(root / "first", tmp_path / "first")
    c = config(root, "new", "first", lwf=1.0)
    c.continual.previous = str(tmp_path / "first")
    c.continual.memory = "5/class"
    c.train.steps = 8
    c.train.eval_every = 4
    result = run(c, tmp_path / "run")
    shutil.rmtree(tmp_path / "first")
    (tmp_path / "run/result.json").unlink()
    shutil.rmtree(tmp_path / "run/checkpoints/8")
    again = run(c, tmp_path / "run")
    assert again["confusion"] == result["confusion"] and again["loss"] == result["loss"]
    assert again["continual"]["remembered"] == 15


@pytest.mark.parametrize("labels", ["sampled", "expected", "true"])
def test_fisher_of_a_run(labels, root, tmp_path):
    shutil.copytree(root / "first", tmp_path / "run")
    arrays, about = measure(tmp_path / "run", "--labels", labels)
    assert about["labels"] == labels and about["images"] == 20
    weights = run_weights(root / "first")[2]
    assert set(arrays) == {f"{k}.{n}" for n in weights for k in ("importance", "anchor")}
    np.testing.assert_array_equal(arrays["anchor.head.kernel"], weights["head.kernel"])
    assert min(array.min() for n, array in arrays.items() if n.startswith("importance.")) >= 0
    assert arrays["importance.head.bias"].max() > 0


@pytest.fixture(scope="module")
def measured(root):
    """Returns (first, second): runs that have learned with EWC, the first one measured."""
    first = root / "measured"
    shutil.copytree(root / "first", first)
    write_fisher(str(first), images=20)
    c = config(root, "new", "measured", ewc=1.0)
    c.train.steps = 4
    run(c, root / "second")
    return first, root / "second"


def measure(workdir, *arguments):
    """Returns (arrays, about) of the Fisher information of 20 images."""
    importance(["--workdir", str(workdir), "--images", "20", *arguments])
    file = workdir / "importance/fisher.safetensors"
    return load_file(file), json.loads(file.with_suffix(".json").read_text())


def test_the_importance_of_earlier_tasks_is_never_left_out_silently(measured, tmp_path):
    first, second = measured
    file = first / "importance/fisher.safetensors"
    earlier = load_file(file)
    both, about = measure(second)
    own, about_own = measure(second, "--decay", "0")
    assert (about["before"], about_own["before"]) == (str(file), None)
    key = "importance.head.bias"
    np.testing.assert_allclose(both[key][:3], own[key][:3] + earlier[key], rtol=1e-5)
    try:
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(UserError, match=f"{file} is damaged.*importance --workdir {first}"):
            measure(second)
        save_file(earlier | {key: np.zeros(9, np.float32)}, file)
        with pytest.raises(UserError, match=rf"does not fit {second}: {key} is \(9,\), not"):
            measure(second)
        save_file({name: array for name, array in earlier.items() if name != key}, file)
        with pytest.raises(UserError, match=f"it has no {key}"):
            measure(second)
        save_file(earlier | {f"importance.{n}": earlier[key] for n in ("x", "y")}, file)
        with pytest.raises(UserError, match="its 'x' does not learn there"):
            measure(second)
        file.unlink()
        np.testing.assert_array_equal(measure(second)[0][key], both[key])  # from its own copy
        without_copy = tmp_path / "run"
        shutil.copytree(second, without_copy, ignore=shutil.ignore_patterns("teachers"))
        with pytest.raises(UserError, match="has measured which weights matter: run python -m"):
            measure(without_copy)
        np.testing.assert_array_equal(measure(without_copy, "--decay", "0")[0][key], own[key])
        first.rename(tmp_path / "first")
        with pytest.raises(UserError, match="there is no such run here"):
            measure(without_copy)
    finally:
        if not first.exists():
            (tmp_path / "first").rename(first)
        save_file(earlier, file)


def test_what_was_measured_is_measured_again_if_asked_in_another_way(measured):
    first, _ = measured
    settings = fisher_settings("sampled", 20, "each", 1.0)
    assert is_measured(str(first), "fisher", settings)
    for other in (("true", 20, "each", 1.0), ("sampled", 0, "each", 1.0)):
        assert not is_measured(str(first), "fisher", fisher_settings(*other))
    file = first / "importance/fisher.safetensors"
    arrays = load_file(file)
    save_file(arrays | {"anchor.head.bias": np.zeros(3, np.float32)}, file)  # as a kill leaves it
    assert not is_measured(str(first), "fisher", settings)
    file.write_bytes(b"")
    assert not is_measured(str(first), "fisher", settings)
    save_file(arrays, file)
    assert is_measured(str(first), "fisher", settings)
    assert not is_measured(str(first), "si", settings)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_si_has_no_penalty_at_the_weights_that_the_next_task_starts_from(ema, root, tmp_path):
    workdir = tmp_path / "run"
    c = config(root)
    c.objective.name = "continual"
    c.objective.options.si = 1.0
    c.optimizer.ema = ema
    c.train.steps = 4
    run(c, workdir)
    importance(["--workdir", str(workdir), "--kind", "si"])
    arrays = load_file(workdir / "importance/si.safetensors")
    for name, array in run_weights(workdir)[2].items():
        np.testing.assert_array_equal(arrays[f"anchor.{name}"], array)
    with open_checkpoints(workdir, c) as checkpoints:
        state = checkpoints.read_best()[1]
    end = state["params"]["model"]["head"]["bias"]
    start = state["rest"]["first"]["head"]["bias"]
    total = state["rest"]["path"]["sum"]["head.bias"]
    expected = total / ((end - start) ** 2 + DAMPING)
    np.testing.assert_allclose(arrays["importance.head.bias"], expected, rtol=1e-5)


def test_a_sequence_of_tasks(root, tmp_path, capsys, monkeypatch):
    opens = []

    @functools.wraps(folders.open)
    def noting_open(argument, **options):
        opens.append(argument)
        return opened_as_before(argument, **options)

    opened_as_before = folders.open
    monkeypatch.setattr(folders, "open", noting_open)
    file = tmp_path / "config.py"
    file.write_text(
        "from tests.continual.test_runs import config\n"
        "import pathlib\n"
        "def get_config(root):\n"
        "    c = config(pathlib.Path(root))\n"
        "    c.objective.name = 'continual'\n"
        "    c.objective.options.update(ewc=10.0, si=0.1, lwf=1.0)\n"
        "    c.continual.tasks = f'folder:{root}/old | folder:{root}/new'\n"
        "    c.continual.memory = '5/class'\n"
        "    c.continual.selection = 'random'\n"
        "    return c\n"
    )
    arguments = ["--config", f"{file}:{root}", "--workdir", str(tmp_path / "tasks")]
    sequence(arguments)
    # "old" on its own must have two classes, and as one of several sources only one.
    assert sorted(opens) == [str(root / "new"), str(root / "old"), str(root / "old")]
    assert "average accuracy" in capsys.readouterr().out
    record = json.loads((tmp_path / "tasks/sequence.json").read_text())
    first, second = record["matrix"]
    assert first[1] is None and record["accuracy"] == pytest.approx(np.mean(second))
    assert record["forgetting"] == pytest.approx(first[0] - second[0])
    assert record["backward_transfer"] == pytest.approx(second[0] - first[0])
    assert Image.open(tmp_path / "tasks/sequence.png").size[0] > 400
    joined = load_file(tmp_path / "tasks/task-2/teachers/si.safetensors")
    assert joined["importance.head.kernel"].shape == (32, 3)
    sequence(arguments)  # all is done already
    assert "finished already" in capsys.readouterr().out
    assert json.loads((tmp_path / "tasks/sequence.json").read_text()) == record
    (tmp_path / "tasks/task-2/result.json").unlink()
    sequence(arguments)  # which takes further time
    again = json.loads((tmp_path / "tasks/sequence.json").read_text())
    assert again["seconds"] > record["seconds"] and again["matrix"] == record["matrix"]
    for name in ("elapsed.json", "sequence.csv"):
        (tmp_path / "tasks" / name).unlink()
    sequence(arguments)  # the files of earlier code
    assert json.loads((tmp_path / "tasks/sequence.json").read_text()) == again


def test_mistakes(root, tmp_path):
    def message(c):
        with pytest.raises(UserError) as caught:
            run(c, tmp_path / "run")
        return str(caught.value)

    c = config(root, "old", "first")
    assert "has no training image that" in message(c) and "add images" in message(c)
    c = config(root, "new", "first")
    c.continual.memory = "100/class"
    assert "continual.memory = '100/class', but the class '" in message(c)
    c.continual.memory = "many"
    assert "continual.memory = 'many' must be a number per class" in message(c)
    c.continual.memory = "5/class"
    c.continual.selection = "best"
    assert "continual.selection = 'best' is unknown" in message(c)
    c = config(root, "new", "first")
    c.continual.memory = "5/class"
    c.objective.name = "supervised"
    c.objective.options = {}
    assert "has no memory: set objective.name=continual" in message(c)
    c = config(root, "new", "first")
    c.continual.memory = "5/class"
    c.continual.old_data = False
    assert "needs the images of the previous run" in message(c)
    c = config(root, "new", "nowhere")
    assert "continual.previous: " in message(c) and "is not a run directory" in message(c)
    c = config(root, "new", "first")
    c.model.variant = "16x1"
    assert "that run's model is mlp 32x1, this config's mlp 16x1; layers.0." in message(c)
    c.model.name = "cnn"
    c.model.variant = "small"
    first = root / "first"
    assert f"continual.previous = {first}: that run's model is mlp 32x1, this conf" in message(c)
    assert f"Use configs/incremental.py:{first}, or the same model.name, model.va" in message(c)
    c = config(root, "new", "first")
    c.model.head = "cosine"
    assert "that run's head is another one: only one of the two has head.bias" in message(c)
    c = config(root, "new", "first", ewc=1.0)
    assert "run python -m vision.continual.importance --workdir" in message(c)
    c = config(root)
    c.continual.memory = "5/class"
    assert "needs continual.previous" in message(c)
    assert not pathlib.Path(tmp_path, "run").exists()
