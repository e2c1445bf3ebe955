"""Every block on the pages is run by a test, or at least parsed by what would run it.

A command is given to its own stage, which reads its flags and its config and then stops. What needs
another program than ours is checked as a line of the shell, and for the files that it names.
"""

import ast
import importlib
import pathlib
import re
import subprocess
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.messages import share_in_code, share_of_templates
from tests.support.pages import PAGES, fenced, is_parsed, lines, programs, simple_commands
from vision import objectives
from vision.config import flags
from vision.config.schema import OPTION_GROUPS, all_keys
from vision.serving import settings

# Blocks in Python and changes that a test runs, by their pages.
RUN = {
    "README.md": "tests/test_documents.py",
    "CONTRIBUTING.md": "tests/test_contributing.py",
    "docs/python.md": "tests/slow/test_python_page.py",
}
# Other programs on the pages: nothing of ours reads their arguments.
OTHERS = {
    *("[", "!", "cd", "curl", "docker", "echo", "exit", "export", "fi", "if", "pip", "prometheus"),
    *("prometheus-alertmanager", "sbatch", "source", "then", ".venv/bin/ruff", ".venv/bin/python"),
    *("python -m http.server", "NAME=VALUE"),
}
ASSIGNMENT = re.compile(r"\w+=\S+")
LAYOUT = re.compile(r"\w+(?:/\w+)*/\*\.jpg")
TROUBLES = "docs/troubleshooting.md"
PYTHONS = re.compile(r"[\w.]+Error: ")  # an exception that is not ours
LEAST_SHARE = 1 / 3  # of a message's letters: the others are of paths, names and keys
LEAST_COVERED = 0.9  # of them by one or two texts of the code, with their values
# Made of three texts; tests/test_troubleshooting.py lets the code print them.
PRINTED = ("error: the audit needs cleanlab", "error: '--config.train.step=3': no key")
NAMES = ("c", "config")  # what a config is called on the pages


class ParsedError(Exception):
    """A stage has read its arguments."""


PARSED = [command for command in programs() if is_parsed(command)]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The directory of a reader who has photographs, a model, and this checkout's configs."""
    image = cv2.imencode(".jpg", np.zeros((40, 50, 3), np.uint8))[1].tobytes()
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(image)
    (tmp_path / "models").mkdir()
    for name in ("configs", "experiments", "scripts"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)

    def stop(config, values):
        raise ParsedError

    def check(values):
        checked(values)
        raise ParsedError

    checked = settings.check
    monkeypatch.setattr(settings, "check", check)  # the server's
    monkeypatch.setattr(flags, "_check_values", stop)


@pytest.mark.parametrize("page", sorted({command.page for command in PARSED}))
def test_stages_accept_their_commands(page, reader, capsys):
    for command in PARSED:
        if command.page != page:
            continue
        stage = importlib.import_module(command.program)
        if hasattr(stage, "__path__"):
            stage = importlib.import_module(f"{command.program}.__main__")
        with pytest.raises(ParsedError):
            stage.main(command.words)
            pytest.fail(f"{command}: it has not read its flags")


@pytest.mark.parametrize("page", PAGES)
def test_each_block_is_run_or_parsed(page):
    for language, code in fenced(PAGES[page]):
        if language in ("python", "py", "diff") and page in RUN:
            assert (REPOSITORY / RUN[page]).is_file()
        elif language == "python" and page == "DESIGN.md":
            check_contract(code, page)
        else:
            assert language in CHECKS, f"{page}: what checks a block of '{language}'?\n{code}"
            CHECKS[language](code, page)


def check_commands(code, page):
    """Each line is a command of ours, which is parsed above, or of one of `OTHERS`."""
    assert subprocess.run(["bash", "-n"], input=code, text=True).returncode == 0, code
    ours = {(c.program, *c.words) for c in programs() if c.page == page}
    for line in lines(code):
        for words in simple_commands(line):
            program = words[0] if words[:2] != ["python", "-m"] else " ".join(words[:3])
            program = "NAME=VALUE" if ASSIGNMENT.fullmatch(program) else program
            is_ours = re.match(r"python -m (vision|scripts)\b|\./scripts/|vision$", program)
            is_layout = LAYOUT.fullmatch(line)
            # Its flags: test_documents.py.
            is_experiment = program.startswith("python -m experiments.") and find_spec(words[2])
            is_checked = is_ours or is_layout or is_experiment or program in OTHERS
            assert is_checked, f"{page}: what checks '{line}'?"
            if not is_ours and not is_layout:
                check_files(words, page)
    assert ours or not re.search(r"python -m vision", code), page


def check_files(words, page):
    for word in words:
        path = word.rpartition("=")[2]
        if path.startswith(("configs/", "scripts/", "tests/")):
            assert (REPOSITORY / path.split(":")[0]).exists(), f"{page}: {word}"


def check_text(code, page):
    """What a program prints: our messages are those that the code has."""
    is_ours = page == TROUBLES and not PYTHONS.match(code)
    messages = [code] if is_ours else re.findall(r"^error: (.*(?:\n.+)*)", code, re.MULTILINE)
    for message in messages:
        share = share_in_code(message)
        assert share > LEAST_SHARE, f"{page}: the code has {share:.0%} of\n{message}"
        if not message.startswith(PRINTED):
            covered = share_of_templates(message)
            assert covered >= LEAST_COVERED, f"{page}: two texts have {covered:.0%} of\n{message}"


def check_python(code, page):
    """It is Python, what it imports of ours is there, and so are the keys of a config."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vision"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names), f"{page}: {node.module}"
        if isinstance(node, ast.Attribute) and ast.unparse(node).partition(".")[0] in NAMES:
            key = ast.unparse(node).partition(".")[2]
            is_group = any(name.startswith(f"{key}.") for name in all_keys())
            is_option = key.startswith(tuple(OPTION_GROUPS))
            assert key in all_keys() or is_group or is_option, f"{page}: {key}"


def check_contract(code, page):
    """DESIGN.md shows a contract without bodies: the names are those of the code."""
    contract = pathlib.Path(objectives.contract.__file__).read_text()
    for name in re.findall(r"^(?:    )?(?:def )?([A-Za-z_]+)(?: =|\()", code, re.MULTILINE):
        assert name == "__init__" or re.search(rf"\b{name}\b", contract), f"{page}: {name}"


def check_not_compiled(code, page):
    assert "not compiled here" in PAGES[page].replace("\n", " "), page


# By the language of a block; those without one are commands.
CHECKS = {
    "": check_commands,
    "python": check_python,
    "swift": check_not_compiled,
    "text": check_text,
}
