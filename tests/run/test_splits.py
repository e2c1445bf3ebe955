"""A run knows the images of its splits: whatever happens to the folder, it uses exactly those."""

import contextlib
import json
import pathlib
import shutil
import types

import numpy as np
import pandas as pd
import pytest

from tests.support.photo_run import draw, here, original, train
from vision import cli, main
from vision.data import __main__ as data_command
from vision.data.division import Members, read_division, write_division
from vision.data.pipeline import named_splits
from vision.errors import UserError
from vision.evaluation import __main__ as evaluation
from vision.run.directory import read_run
from vision.run.splits import past_of, storing_division
from vision.support.files import write_json

pytestmark = pytest.mark.long

__all__ = ["here", "original"]  # fixtures
QUICK = ("corruptions=false", "views=false", "probe=0", "map=none", "bootstrap=2", "slices=false")


def evaluate(workdir, out, *flags):
    """Returns the names of the images of the test split, below the folder."""
    quick = [f"--config.evaluation.{key}" for key in QUICK]
    cli.run(evaluation.main, [f"--workdir={workdir}", f"--out={out}", *quick, *flags])
    rows = pd.read_parquet(out / "predictions.parquet")
    return {"/".join(pathlib.Path(name).parts[-2:]) for name in rows["name"]}


def refused(capsys, command, *argv):
    with pytest.raises(SystemExit) as ended:
        command(*argv)
    assert ended.value.code == 2
    return capsys.readouterr().err


def interrupt(workdir="run"):
    """Leaves a run as a kill before its last steps and its test leaves it."""
    pathlib.Path(workdir, "result.json").unlink()
    shutil.rmtree(pathlib.Path(workdir, "checkpoints", "4"))


def change(division):
    """Removes, adds and relabels images; returns the names of those removed."""
    removed = [division["train"].names[0], division["test"].names[-1]]
    for name in removed:
        pathlib.Path("photos", name).unlink()
    for number in range(100, 110):
        draw(pathlib.Path("photos"), "cat", number)
    return removed


def test_a_run_lists_its_images(here):
    data = json.loads(pathlib.Path("run/data.json").read_text())
    assert list(here) == ["train", "val", "test"] == list(data["splits"])
    names = np.concatenate([members.names for members in here.values()])
    assert sorted(names) == sorted(f"{c}/{i:03}.png" for c in ("cat", "dog") for i in range(30))
    for split, members in here.items():
        assert data["splits"][split] == {
            "images": data["split_sizes"][split],
            "sha256": members.digest(),
        }
        assert all(name.startswith(label) for name, label in zip(*members, strict=True))


def test_evaluation_tests_the_images_that_were_test_images(here, capsys):
    expected = set(here["test"].names)
    removed = change(here)
    assert evaluate("run", pathlib.Path("after")) == expected - set(removed)
    output = capsys.readouterr().out
    assert f"note: since training began, 1 of train missing: {removed[0]}" in output
    assert f"1 of test missing: {removed[1]}" in output and "10 of train new: cat/1" in output
    changes = json.loads(pathlib.Path("after/metrics.json").read_text())["data"]["changes"]
    assert changes["missing"] == {"train": 1, "test": 1}
    everything = evaluate("run", pathlib.Path("all"), "--split=all")
    assert everything == set(np.concatenate([m.names for m in here.values()])) - set(removed)
    shutil.rmtree("photos")
    for label in ("cat", "dog"):
        for number in range(200, 220):
            draw(pathlib.Path("photos"), label, number)
    error = refused(capsys, evaluate, "run", pathlib.Path("none"))
    assert "none of the" in error and "exist any more" in error


def test_a_split_is_evaluated_when_all_images_of_others_are_gone(here, capsys):
    for split in ("train", "val"):
        for name in here[split].names:
            pathlib.Path("photos", name).unlink()
    probe = "--config.evaluation.probe=50"
    assert evaluate("run", pathlib.Path("e"), probe) == set(here["test"].names)
    assert f"{len(here['train'].names)} of train missing" in capsys.readouterr().out
    error = refused(capsys, evaluate, "run", pathlib.Path("none"), "--split=train")
    assert "images of train exist any more" in error


@pytest.mark.parametrize("place", ["moved", "packed", "below"])
def test_the_same_images_in_another_place_have_the_same_splits(here, place, capsys, monkeypatch):
    """Otherwise a pack, or a moved folder, would be new images: those trained on among them."""
    spec = "folder:moved/photos"
    if place == "moved":
        shutil.move("photos", "moved/photos")
    elif place == "packed":
        spec = "packed:pack"
        cli.run(data_command.main, ["pack", "folder:photos", "pack"])
    else:
        pathlib.Path("below").mkdir()
        monkeypatch.chdir("below")
        spec = "folder:../photos"
    run = "../run" if place == "below" else "run"
    names = evaluate(run, pathlib.Path("e"), f"--data={spec}")
    assert len(names) == len(here["test"].names)
    assert names == set(here["test"].names)
    assert "have the names of the model's training data" in capsys.readouterr().out
    header = json.loads(pathlib.Path("e/metrics.json").read_text())["data"]
    assert header["split"] == "test" and not header["learned_from"]
    if place != "packed":
        return
    evaluate(run, pathlib.Path("all"), f"--data={spec}", "--split=all")
    assert json.loads(pathlib.Path("all/metrics.json").read_text())["data"]["learned_from"]


def test_the_rest_is_evaluated_when_a_class_is_gone(here, capsys):
    shutil.rmtree("photos/dog")
    expected = {name for name in here["test"].names if name.startswith("cat")}
    assert evaluate("run", pathlib.Path("e")) == expected
    assert "of test missing: dog/" in capsys.readouterr().out


def test_other_images_are_evaluated_as_a_whole(here, capsys):
    for number in range(25, 45):
        draw(pathlib.Path("more"), "cat", number)
    assert len(evaluate("run", pathlib.Path("e"), "--data=folder:more")) == 20
    assert "trained on" not in capsys.readouterr().out


def test_resuming_on_other_data_is_refused_or_keeps_every_split(here, capsys):
    interrupt()
    removed = change(here)
    pathlib.Path("photos/dog/001.png").rename("photos/cat/901.png")
    error = refused(capsys, train, "run", "photos")
    assert "the data have changed since run began" in error and removed[0] in error
    assert "data.allow_changes=true" in error
    train("run", "photos", "data.allow_changes=true")
    assert "note: " in capsys.readouterr().out
    now = read_division("run/splits.csv.gz")
    for split, members in here.items():
        names = now[split].names
        assert list(names[: len(members.names)]) == list(members.names)  # those missing too
    # A training image is missing: what is new may be that one, so it is not tested on.
    assert len(now["test"].names) == len(here["test"].names)
    assert "cat/901.png" in now["train"].names
    assert evaluate("run", pathlib.Path("e")) <= set(here["test"].names)
    data = json.loads(pathlib.Path("run/data.json").read_text())
    assert data["splits"]["train"]["sha256"] == now["train"].digest()


def test_a_finished_run_keeps_its_result(here, capsys):
    before = {path: path.read_bytes() for path in pathlib.Path("run").rglob("*.json*")}
    change(here)
    for _ in range(2):
        train("run", "photos", "log.every=3")
        assert capsys.readouterr().out.startswith("finished already: test: loss ")
    shutil.rmtree("photos")
    cli.run(main.main, ["--workdir=run"])
    assert before == {path: path.read_bytes() for path in before}
    assert "holds a run with another config: train.steps" in refused(
        capsys, train, "run", "photos", "train.steps=9"
    )


def test_a_run_that_was_killed_before_its_test_is_tested(here, capsys):
    result = json.loads(pathlib.Path("run/result.json").read_text())
    pathlib.Path("run/result.json").write_text('{"loss": 1')  # torn
    train("run", "photos")
    assert "finished already" not in capsys.readouterr().out
    again = json.loads(pathlib.Path("run/result.json").read_text())
    assert again["confusion"] == result["confusion"] and again["loss"] == result["loss"]


@pytest.mark.parametrize("described", [False, True])
def test_a_kill_while_the_list_is_replaced_leaves_one(here, described):
    changed = here | {"train": Members(here["train"].names[::-1], here["train"].labels)}
    source = read_run("run")[0].data.source
    file = pathlib.Path("run/data.json")
    data = types.SimpleNamespace(division=changed, tasks=())
    with contextlib.suppress(KeyboardInterrupt), storing_division(file.parent, data) as splits:
        if described:
            write_json(file, json.loads(file.read_text()) | splits)
        raise KeyboardInterrupt
    division = past_of("run", source).read()
    assert list(division["train"].names) == list((changed if described else here)["train"].names)


def test_a_damaged_list_is_named(here, capsys):
    pathlib.Path("photos", here["test"].names[0]).unlink()
    members = here | {"test": here["train"]}
    write_division("run/splits.csv.gz", members)
    with pytest.raises(UserError, match="does not match the JSON file next to it"):
        config, _ = read_run("run")
        named_splits(config.data, 0, past=past_of("run", config.data.source))
    pathlib.Path("run/splits.csv.gz").write_bytes(b"\x1f\x8bnot")
    error = refused(capsys, evaluate, "run", pathlib.Path("e"))
    assert "cannot read 'run/splits.csv.gz'" in error and "copy it again" in error
