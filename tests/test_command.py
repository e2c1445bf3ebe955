"""The command `vision`: its table, its names, and its stages, in processes of their own."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import REPOSITORY
from vision import command, stages
from vision.support.extras import packages

SLOWEST = 0.3  # seconds of the processor, for the table
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}


def start(*words, cwd=REPOSITORY, **more):
    line = [sys.executable, "-P", "-m", "vision", *map(str, words)]
    environment = ENVIRONMENT | more
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True)


def test_every_stage_has_its_module_and_a_name_of_its_own():
    names = [stage.name for stage in stages.stages()]
    assert len(set(names)) == len(names)
    for stage in stages.stages():
        assert importlib.util.find_spec(stage.module), stage
    near = {name for names in stages.SYNONYMS.values() for name in names}
    assert near - {"--help"} <= set(names)
    assert not set(stages.SYNONYMS) & set(names)


def test_the_extras_of_the_stages_exist():
    for extra in {extra for stage in stages.stages() for extra in stage.extras} | {"basics"}:
        assert re.search(rf"^{extra} = \[", (REPOSITORY / "pyproject.toml").read_text(), re.M)
        assert packages(extra) or extra == "basics"


def test_the_table_is_there_at_once_and_names_every_stage():
    code = (
        "import resource, sys; from vision import command\n"
        "try: command.main([])\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'jax', 'numpy', 'absl', 'PIL', 'cv2'} & set(sys.modules)\n"
        "print(code, heavy, resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    *table, last = done.stdout.splitlines()
    assert last.startswith("0 set() "), done.stdout + done.stderr
    assert float(last.split()[-1]) < SLOWEST
    for stage in stages.stages():
        assert any(line.split()[:1] == [stage.name] for line in table)
    assert all(len(line) <= 100 for line in table)


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("evalute", "evaluate"), ("compress", "prune"), ("fit", "train"), ("TEST", "evaluate")],
)
def test_a_mistyped_stage_is_named(word, nearest):
    done = start(word)
    assert done.returncode == 2 and f"vision {nearest}" in done.stderr and not done.stdout


def test_a_folder_without_a_stage_asks_for_one(tmp_path):
    assert command.unknown(str(tmp_path), "vision").endswith("did you mean: vision train?")
    assert command.unknown("qqqq", "vision").endswith("vision --help lists them")


def test_help_and_messages_have_the_form_in_which_the_user_called(tmp_path):
    done = start("--called-as", "./scripts/vision", "evaluate", "--help")
    assert not done.returncode
    assert "./scripts/vision evaluate --workdir runs/pets" in done.stdout
    assert "`./scripts/vision compare`" in done.stdout and "python -m" not in done.stdout
    done = start("config", "a", "b")
    assert done.returncode == 2
    assert done.stderr == "error: give at most one word: python -m vision config learning\n"


def test_a_module_that_is_no_stage_keeps_its_name(monkeypatch):
    text = "`python -m vision.search.serve`, python -m vision.search."
    assert stages.as_called(text) == text
    monkeypatch.setattr(sys, "orig_argv", ["python", "-P", "/a b/vision", "search", "-m", "x"])
    assert stages.as_called(text) == "`python -m vision.search.serve`, vision search."


def test_a_missing_package_is_one_line(tmp_path):
    (tmp_path / "absl.py").write_text("raise ModuleNotFoundError('no absl', name='absl')")
    environment = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = start("train", **environment)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "has no module 'absl'" in done.stderr and "doctor" in done.stderr
    assert "Traceback" in start("train", "--traceback", **environment).stderr


def test_exit_codes_and_the_working_directory_are_those_of_the_module(tmp_path):
    assert start("data", "info", "nothing", cwd=tmp_path).returncode == 2
    (tmp_path / "mine").mkdir()
    text = "def build(variant, num_classes):\n    raise SystemExit(7)\n"
    (tmp_path / "mine" / "model.py").write_text(text)
    flags = (
        "--config.model.name=mine.model",
        "--config.parallel.devices=1",
        f"--workdir={tmp_path}/run",
    )
    done = start("train", "--config", "configs/digits.py:smoke", *flags, cwd=tmp_path)
    assert done.returncode == 7, done.stderr  # the model beside the caller was found
    assert "note: there is no configs/digits.py here: using" in done.stderr


def test_the_extras_of_a_stage_are_printed_for_the_script():
    assert start("--extras", "audit").stdout == "audit\n"
    assert start("--extras", "train").stdout == start("--extras").stdout == "\n"
    assert start("--extras", "export").stdout == "\n"  # "basics" has what ONNX needs


def test_basics_has_what_its_stages_need():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    basics = extras["optional-dependencies"]["basics"]
    assert basics[0] == "vision[evaluation,serving]"
    named = {line.partition("=")[0].rstrip(">") for line in basics[1:]}
    assert {*stages.BASICS} == {"evaluation", "serving", "export"}
    for stage in stages.stages():
        if "export" in stage.extras:
            assert stage.only and {*stage.only} <= named
