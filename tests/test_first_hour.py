"""The first hour's experiment: it reads commands as they stand, and follows them as a new user."""

import subprocess

import pytest

from experiments.first_hour import compare, readme
from experiments.first_hour.commands import Step, read_steps
from tests.conftest import REPOSITORY

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


def test_a_reader_has_nothing_but_the_clone(tmp_path, monkeypatch):
    """Commands get no PYTHONPATH and an empty home, and what `source` sets once it has come."""
    origin = tmp_path / "origin"
    (origin / "scripts").mkdir(parents=True)
    (origin / "scripts" / "hello").write_text(HELLO)
    (origin / "scripts" / "hello").chmod(0o755)
    (origin / "scripts" / "name").write_text("export NAME=reader\n")
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(readme, "REPOSITORY", origin)
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
    skipped = reader.follow(Step("pip install -e .", "a"), "")
    assert skipped["ran"].startswith("not run: ") and "exit_code" not in skipped
    reader.follow(Step("print(1)\n", "a", "ideas/model.py"), "")
    assert (reader.checkout / "ideas" / "model.py").read_text() == "print(1)\n"
    assert len(list((reader.checkout / "photos").glob("*/*.jpg"))) == 32


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
