"""The first hour's experiment: it reads commands as they stand, and follows them as a new user."""

import pathlib
import shutil
import socket
import subprocess
import sys

import cv2
import pytest

from experiments.first_hour import compare, photos, readme
from experiments.first_hour.commands import Step, read_steps
from experiments.table import read_rows
from tests.conftest import REPOSITORY
from tests.monitoring.conftest import photos as patterns
from tests.monitoring.conftest import watched as watched  # a fixture
from tests.support.commands import outcome, refusal

PAGE = """# Tool

Run `./scripts/hello
now` first.

## Use

```
./scripts/hello            # a comment
source ./scripts/name
./scripts/greet --first=1 \\
    --second=2
not a command
./scripts/hello
```

| what | `python -m tool.stage` |

```python
# ideas/model.py
print(1)
```
"""
HELLO = """#!/bin/sh
echo "name=$NAME path=$PYTHONPATH home=$(ls -A "$HOME")"
"""


def test_photos_are_sorted_by_their_number(tmp_path, shared_data, capsys):
    out = tmp_path / "photos"
    archive = str(shared_data / "imagenet_samples.tar")
    photos.main([archive, str(out)])
    printed = "mammals: 43 photos\nother_animals: 37 photos\nthings: 101 photos\n"
    assert capsys.readouterr().out == printed
    assert len(photos.read_photos(out)) == 181
    assert (out / "mammals" / "0360_n02444819_otter.jpg").is_file()
    assert "exists: give a new folder" in refusal(photos.main, capsys, archive, str(out))
    text = tmp_path / "text.tar"
    text.write_text("text")
    assert "is not a tar file" in refusal(photos.main, capsys, str(text), str(tmp_path / "none"))


def test_commands_come_in_the_order_of_the_page():
    assert list(read_steps(PAGE)) == [
        Step("./scripts/hello now", "Tool"),
        Step("./scripts/hello", "Use"),
        Step("source ./scripts/name", "Use"),
        Step("./scripts/greet --first=1 --second=2", "Use"),
        Step("python -m tool.stage", "Use"),
        Step("# ideas/model.py\nprint(1)\n", "Use", "ideas/model.py"),
    ]


def test_every_command_of_readme_is_read():
    page = (REPOSITORY / "README.md").read_text()
    texts = [step.text for step in read_steps(page)]
    assert texts[0] == "./scripts/train"
    assert texts.index("source .venv/bin/activate") < texts.index(
        "python -m vision.data info folder:photos"
    )
    lines = page.replace("\\\n    ", "").splitlines()
    starts = ("./scripts/", "python -m ")
    shown = [line.split("#")[0].strip() for line in lines if line.startswith(starts)]
    assert set(shown) <= set(texts)


@pytest.mark.parametrize(
    "command,ran",
    [
        (
            "python -m vision.main --config configs/longtail_mnist5k.py:ldam_drw",
            "python -m vision.main --config configs/longtail_mnist5k.py:ldam_drw:smoke",
        ),
        (
            "python -m vision.search --config configs/digits.py --space configs/spaces/a.py "
            "--trials 40",
            "python -m vision.search --config configs/digits.py:smoke --space configs/spaces/a.py "
            "--trials 2",
        ),
        (
            "python -m vision.main --config configs/incremental.py:runs/pets:new_photos",
            "python -m vision.main --config configs/incremental.py:runs/pets:new_photos",
        ),
        (
            "python -m vision.main --config configs/digits.py",
            "python -m vision.main --config configs/digits.py",
        ),
        ("./scripts/vision data info photos", "./scripts/vision data info photos"),
    ],
)
def test_trainings_are_shortened(command, ran):
    assert readme.shortened(command) == ran


def make_photos(folder):
    for name, count in (("cats", 20), ("dogs", 12)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.jpg").write_bytes(bytes([number]))
    return folder


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """A repository of three scripts, which is cloned instead of this one."""
    origin = tmp_path / "origin"
    (origin / "scripts").mkdir(parents=True)
    (origin / "scripts" / "hello").write_text(HELLO)
    (origin / "scripts" / "hello").chmod(0o755)
    (origin / "scripts" / "name").write_text("export NAME=reader\n")
    own = pathlib.Path(sys.executable).parent
    activate = f"export PATH={own}:$PATH PYTHONPATH={REPOSITORY}\n"
    (origin / "scripts" / "activate").write_text(activate)
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(readme, "REPOSITORY", origin)
    return origin


def test_a_reader_has_nothing_but_the_clone(origin, tmp_path, monkeypatch):
    """Commands get no PYTHONPATH and an empty home, and what `source` sets once it has come."""
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    reader = readme.Reader(tmp_path / "work", make_photos(tmp_path / "photos"), None)

    row = reader.follow(Step("./scripts/hello", "a"), "")
    assert (row["exit_code"], row["ran"]) == (0, "")
    assert reader.follow(Step("source ./scripts/name", "a"), "") is None
    assert reader.follow(Step("./scripts/hello", "a"), "greet") is None
    reader.follow(Step("./scripts/hello", "a"), "hello")
    log = (tmp_path / "work" / "log").read_text().splitlines()
    assert [line for line in log if "name=" in line] == [
        "name= path= home=",
        "name=reader path= home=",
    ]
    assert reader.follow(Step("./scripts/missing", "a"), "")["exit_code"] == 127
    assert reader.has_done(Step("./scripts/hello", "a"))
    assert not reader.has_done(Step("./scripts/missing", "a"))
    skipped = reader.follow(Step("pip install -e .", "a"), "")
    assert skipped["ran"].startswith("not run: ") and "exit_code" not in skipped
    reader.follow(Step("print(1)\n", "a", "ideas/model.py"), "")
    assert (reader.checkout / "ideas" / "model.py").read_text() == "print(1)\n"
    assert len(list((reader.checkout / "photos").glob("*/*.jpg"))) == 32


def test_a_stopped_clone_begins_again(origin, tmp_path):
    left = tmp_path / "work" / ".vision" / "photos" / "cats"
    left.mkdir(parents=True)
    reader = readme.Reader(tmp_path / "work", make_photos(tmp_path / "photos"), None)
    assert len(list((reader.checkout / "photos").glob("*/*.jpg"))) == 32
    assert (reader.checkout / "scripts" / "hello").is_file() and not left.exists()


def test_drift_gets_a_log_of_a_window_of_rows(origin, tmp_path, watched, monkeypatch):
    """As README has it, with the default window, also where a stopped call has left a log."""
    for place in ("cats", "dogs"):
        (tmp_path / "photos" / place).mkdir(parents=True)
    for number, image in enumerate(patterns(40, 3)):
        cv2.imwrite(
            str(tmp_path / "photos" / ("cats", "dogs")[number % 2] / f"{number}.jpg"), image
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(readme, "SERVER", readme.SERVER.replace(":8080", f":{port}"))
    command = f"{readme.LOGGING} --http-port={port} --grpc-port=0"
    monkeypatch.setattr(readme, "PREPARATIONS", {"predictions": command})
    reader = readme.Reader(tmp_path / "work", tmp_path / "photos", None)
    shutil.copytree(watched[0], reader.checkout / "models" / "pets" / "1")
    (reader.checkout / "predictions").mkdir()
    (reader.checkout / "predictions" / "predictions-1.parquet").write_text("half")
    assert reader.follow(Step("source ./scripts/activate", "a"), "") is None
    (drift,) = [
        step
        for step in read_steps((REPOSITORY / "README.md").read_text())
        if "monitoring.drift" in step.text
    ]
    row = reader.follow(drift, "")
    log = (tmp_path / "work" / "log").read_text()
    assert (row["exit_code"], row["ran"]) == (0, ""), log
    assert "drift in " in log and "1,000 rows" in log
    assert (reader.checkout / "drift" / "report.html").is_file()
    # A preparation that fails is that command's failure: the reader goes on with the next.
    monkeypatch.setattr(readme, "PREPARATIONS", {"runs/gan": "false"})
    row = reader.follow(Step("python -m vision.synthesize --workdir runs/gan", "a"), "")
    assert row["exit_code"] == 1 and row["ran"].startswith("false (before python -m vision.synth")


def test_all_libraries_get_the_same_split(tmp_path):
    photos = make_photos(tmp_path / "photos")
    first = compare.divide(photos, tmp_path / "first", 0)
    names = {
        split: {path.relative_to(first / split) for path in first.glob(f"{split}/*/*")}
        for split in compare.SHARES
    }
    assert {split: len(files) for split, files in names.items()} == {
        "train": 19,
        "val": 5,
        "test": 8,
    }
    assert len(set.union(*names.values())) == 32
    second = compare.divide(photos, tmp_path / "second", 0)
    again = {path.relative_to(second / "test") for path in second.glob("test/*/*")}
    other = compare.divide(photos, tmp_path / "other", 1)
    assert again == names["test"]
    assert {path.relative_to(other / "test") for path in other.glob("test/*/*")} != again


def test_a_split_that_was_stopped_is_made_again(tmp_path):
    photos = make_photos(tmp_path / "photos")
    left = tmp_path / ".data0" / "train" / "cats"
    left.mkdir(parents=True)
    (left / "99.jpg").touch()
    data = compare.divide(photos, tmp_path / "data0", 0)
    assert len(list(data.glob("*/*/*.jpg"))) == 32 and not (tmp_path / ".data0").exists()


# Trains into a new directory if the first one is there, as Ultralytics does, and tests the first.
TRAIN = """python -c "import pathlib, sys; run = pathlib.Path(sys.argv[1])
while run.exists(): run = run.with_name(run.name + '2')
run.mkdir(); (run / 'accuracy').write_text('0.75')" {run}"""
TEST = """python -c "import sys; print('accuracy', open(sys.argv[1] + '/accuracy').read())" {run}"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for the results, with photos, and an environment in a path with a blank."""
    monkeypatch.setattr(compare, "HERE", tmp_path)
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "compare.csv")
    monkeypatch.setattr(compare, "ENVIRONMENTS", tmp_path / "environments.csv")
    (tmp_path / "README.md").write_text("<!-- compare -->\n<!-- end -->\n")
    python = tmp_path / "an env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    make_photos(tmp_path / "photos")
    return tmp_path


def test_a_row_that_fails_costs_no_other_row(place, monkeypatch, capsys):
    """And one that was stopped is measured as if it had not been."""
    good = compare.Rival("good", "timm", "pytest", "random", (TRAIN, TEST), r"accuracy ([\d.]+)")
    bad = compare.Rival("bad", "vision", "pytest", "random", ("python -c exit(3)",), "")
    monkeypatch.setattr(compare, "RIVALS", (bad, good))
    left = place / "a run" / "good0"
    left.mkdir(parents=True)
    (left / "accuracy").write_text("0.25")
    env = place / "an env"
    argv = (f"--photos={place / 'photos'}", f"--workdir={place / 'a run'}", f"--timm={env}")
    code, _, err = outcome(compare.main, capsys, *argv, f"--vision={env}", "--seeds=0,1")
    assert code == 1 and err.count("exit code 3") == 2 and "Traceback" not in err
    rows = read_rows(compare.RESULTS)
    assert [(row["row"], row["seed"], row["accuracy"]) for row in rows] == [
        ("good", "0", "0.75"),
        ("good", "1", "0.75"),
    ]
    table = (place / "README.md").read_text()
    assert "75.0 ± 0.0 % | 2 |" in table and "| not run |" in table


@pytest.mark.parametrize(
    "flags,message",
    [
        (("--vision={env}",), "give --photos FOLDER"),
        (("--vision={env}", "--photos={env}"), "--photos {env} has no CLASS/*.jpg"),
        (("--vision={env}", "--photos={photos}", "--seeds=a"), "--seeds must be numbers such as"),
        (("--vision={photos}", "--photos={photos}"), "--vision: there is no {photos}/bin/python"),
        (("--ultralytics={env}", "--photos={photos}"), "there is no {env}/bin/yolo"),
        (("--fastai={env}", "--photos={photos}"), "give --weights FILE"),
        (
            ("--timm={env}", "--photos={photos}", "--weights={env}/bin/python"),
            "give --timm-scripts FOLDER with timm's train.py and validate.py, got None",
        ),
        (("--timm={env}", "--seeds="), "{env}/bin/python has no package timm"),
    ],
)
def test_what_a_row_needs_is_checked_before_any_runs(place, capsys, flags, message):
    names = {"env": place / "an env", "photos": place / "photos"}
    words = [flag.format(**names) for flag in flags]
    assert message.format(**names) in refusal(compare.main, capsys, *words)
    assert not compare.RESULTS.exists() and not compare.ENVIRONMENTS.exists()


def test_readme_needs_photos(tmp_path, capsys):
    argv = (f"--photos={tmp_path}", f"--workdir={tmp_path / 'work'}")
    assert "has no CLASS/*.jpg" in refusal(readme.main, capsys, *argv)
    assert not (tmp_path / "work").exists()
