"""`vision doctor`: what it finds on this machine, and on machines that lack things."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from vision.doctor import checks
from vision.doctor.checks import BAD, NOTE, OK
from vision.stages import stages
from vision.support.accelerator import has_nvidia_driver


def start(*flags, path=str(REPOSITORY), program=sys.executable):
    environment = os.environ | {"PYTHONPATH": path}
    line = [program, "-m", "vision.doctor", *flags]
    return subprocess.run(line, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def test_training_works_here():
    done = start("--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["training_works"], done.stdout
    by_name = {check["name"]: check for check in report["checks"]}
    assert "cpu" in by_name["devices"]["text"]
    assert by_name["python"]["text"].startswith("3.")
    names = by_name["work"]["text"].split(", ")
    left_out = {c["name"] for c in report["checks"] if c["section"] == "Stages"} - {"work"}
    assert {*names, *left_out} == {stage.name for stage in stages()}


def test_without_jax_training_does_not_work_and_it_says_so(tmp_path):
    (tmp_path / "jax.py").write_text("raise ImportError('the driver is broken')")
    done = start(path=f"{tmp_path}:{REPOSITORY}")
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert "! devices" in done.stdout and "the driver is broken" in done.stdout
    assert "training does not work: devices: " in done.stdout


@pytest.mark.parametrize(
    ("platforms", "reason"),
    [
        pytest.param(
            "cuda",
            "it has no plugin, no driver or no device here",
            marks=pytest.mark.skipif(has_nvidia_driver(), reason="an NVIDIA GPU may be here"),
        ),
        ("gpux", "Backend 'gpux' is not in the list of known backends"),
    ],
)
def test_a_platform_that_jax_cannot_open_is_named(monkeypatch, platforms, reason):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    (check,) = checks._devices()
    assert check.state == BAD
    assert check.text.startswith(f"JAX cannot compute on JAX_PLATFORMS={platforms}: {reason}")


def test_training_names_a_platform_that_jax_cannot_open(tmp_path):
    # In a process of its own: JAX opens its devices once.
    line = [sys.executable, "-m", "vision.main", "--config=configs/digits.py"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "gpux"}
    done = subprocess.run(
        [*line, f"--workdir={tmp_path}/run"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    message, hint = done.stderr.splitlines()[-2:]
    assert message.startswith("error: JAX cannot compute on JAX_PLATFORMS=gpux: ")
    assert "JAX_PLATFORMS=cpu" in hint


def test_unknown_flags_are_refused():
    done = start("--jsno")
    assert done.returncode == 2 and "the only flag is --json" in done.stderr


def test_missing_packages_name_their_command(monkeypatch):
    monkeypatch.setattr(checks, "_lacking", lambda names: [n for n in names if n == "jinja2"])
    found_lacking = {check.name: check for check in checks._stages() if check.state == NOTE}
    assert found_lacking["audit"].text == "lacks jinja2"
    assert found_lacking["audit"].remedy == "./scripts/setup audit"
    monkeypatch.setattr(checks, "CHECKOUT", REPOSITORY / "docs")
    assert "train" not in found_lacking


def test_other_versions_than_the_tested_are_a_note(monkeypatch):
    monkeypatch.setattr(checks, "_pins", lambda: {"numpy": "1.0"})
    states = {check.name: check for check in checks._packages()}
    assert states["numpy"].state == NOTE and "1.0 is the tested version" in states["numpy"].text
    assert states["numpy"].remedy == "pip install numpy==1.0"  # as it is: no "..." to fill in
    assert all("..." not in check.remedy for check in states.values())
    assert states["jax"].state == OK


def test_little_room_is_a_note(monkeypatch):
    monkeypatch.setattr(checks, "LITTLE_DISK", 1e9)
    monkeypatch.setattr(checks, "LITTLE_SHARED", 1e9)
    states = {check.name: check for check in checks._room()}
    assert states["disk"].state == NOTE and "--workdir" in states["disk"].remedy
    assert all(check.state != BAD for check in states.values())


def test_a_cache_that_cannot_be_written_is_a_note(monkeypatch, tmp_path):
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    states = {check.name: check for check in checks._caches()}
    assert states["TFDS"].state == NOTE and "cannot be written" in states["TFDS"].text
