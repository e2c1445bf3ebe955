"""`python -m vision.predict`, on a run and on files as they come."""

import csv
import io
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from vision import cli, inference, predict


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with three images, one of them below another folder, and one that is cut short."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deeper").mkdir()
    random = np.random.default_rng(0)
    for name, size in (("a.png", (8, 8)), ("b.jpg", (30, 20)), ("deeper/c.png", (9, 40))):
        cv2.imwrite(str(folder / name), random.integers(0, 256, (*size, 3), np.uint8))
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:100])
    return folder


def run(capsys, *argv):
    """Returns (exit code, stdout, stderr)."""
    code = 0
    try:
        cli.run(predict.main, [str(a) for a in argv])
    except SystemExit as error:
        code = error.code
    out = capsys.readouterr()
    return code, out.out, out.err


def test_formats_agree_and_unreadable_files_are_named(tiny_run, photos, capsys):
    code, table, err = run(capsys, photos, "--workdir", tiny_run, "--batch_size=2")
    assert code == 1 and "broken.jpg" in err and "error: 1 of 4 files cannot be read" in err
    assert [line.split(":")[0].rpartition("/")[2] for line in table.splitlines()] == ["a.png", "b.jpg", "c.png"]
    _, text, _ = run(capsys, "--workdir", tiny_run, "--format", "csv", "--top=3", photos)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 9 and [row["rank"] for row in rows[:3]] == ["1", "2", "3"]
    _, text, _ = run(capsys, "--workdir", tiny_run, "--format", "json", "--top=99", photos)
    found = [json.loads(line) for line in text.splitlines()]
    assert all(sum(t["probability"] for t in f["top"]) == pytest.approx(1) and len(f["top"]) == 10 for f in found)
    assert [f["top"][0]["class"] for f in found] == [row["class"] for row in rows[::3]]
    assert float(rows[0]["probability"]) == pytest.approx(found[0]["top"][0]["probability"], abs=1e-6)


def test_a_padded_batch_changes_nothing(tiny_run, photos):
    classifier = inference.from_run(tiny_run)
    files = [str(photos / name) for name in ("a.png", "b.jpg", "deeper/c.png")]
    one, many = (list(predict.predict(classifier, files, batch_size=size)) for size in (2, 3))
    for (a, first), (b, second) in zip(one, many, strict=True):
        assert a == b and [n for n, _ in first] == [n for n, _ in second]
        np.testing.assert_allclose([p for _, p in first], [p for _, p in second], rtol=1e-5)


def test_the_run_s_own_accuracy_is_repeated(tiny_run):
    """The classifier gives what the trainer's evaluation counted, image by image."""
    from vision import parallel
    from vision.data.pipeline import open_data
    from vision.evaluation.probe import embed

    classifier = inference.from_run(tiny_run)
    c = classifier.config
    data = open_data(c, parallel.make_mesh(1))
    embeddings, labels = embed(classifier, data.feeds["test"], 32)
    logits = embeddings @ np.array(classifier.model.head.kernel[...]) + np.array(classifier.model.head.bias[...])
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, logits.argmax(-1)), 1)
    assert confusion.tolist() == json.loads((tiny_run / "result.json").read_text())["confusion"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("README.md",), "which model? Give --workdir RUN, or --config"),
        (("--config", "configs/digits.py"), "which images?"),
        (("--workdir", "nowhere"), "which images?"),
        (("--workdir", "nowhere", "README.md"), "nowhere is no run's directory: it has no config.json"),
        (("--workdir", "nowhere", "nothing.png"), "there is no file or folder nothing.png"),
        (("--workdir", "x", "--config", "configs/digits.py", "README.md"), "which model?"),
        (("--config", "configs/digits.py", "README.md"), "has no model.pretrained: train it"),
        (("--workdir", "x", "--format", "xml", "README.md"), "--format = 'xml' is unknown"),
        (("--workdir", "x", "--top", "0", "README.md"), "both are at least 1"),
        (("--workdir", "x", "--unknown", "README.md"), "Unknown command line flag 'unknown'"),
    ],
)
def test_mistakes(argv, message, capsys, monkeypatch):
    from vision import main

    monkeypatch.chdir(main.pathlib.Path(main.__file__).parents[1])
    code, _, err = run(capsys, *argv)
    assert code == 2 and err.startswith("error: ") and len(err.splitlines()) <= 2
    assert message in err


def test_help(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and "--batch_size" in out and "Classifies image files" in out


def test_a_run_of_four_devices_is_opened_on_one(tmp_path):
    """Where it was trained, and how its state was cut, does not matter to those who use it."""
    workdir, root = tmp_path / "run", predict.pathlib.Path(predict.__file__).parents[1]
    flags = ["--config.model.name=vit", "--config.model.variant=mu/4", "--config.augment.affine=False"]
    argv = ["-m", "vision.main", "--config", "configs/digits.py:smoke", f"--workdir={workdir}", *flags]
    argv += ["--config.parallel.fsdp=4", "--config.log.progress=False"]
    found = {}
    for devices, command in (
        (4, argv),
        (1, ["-m", "vision.predict", "--workdir", str(workdir), "--format=json", str(tmp_path / "a.png")]),
    ):
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
        env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        done = subprocess.run([sys.executable, *command], cwd=root, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found[devices] = done.stdout
    assert len(json.loads(found[1])["top"]) == 5
