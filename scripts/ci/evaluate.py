"""Compares the model of a pull request with the one before it, for .github/workflows/evaluate.yml.

    python -m scripts.ci.evaluate --base ../base --head . --out comparison

BASE and HEAD are checkouts. `scripts/ci/evaluate.json` of HEAD says what is compared:

    config, flags   a config that the code of each checkout trains with; or instead of that
    model           a path that has a run or a bundle in each checkout, such as weights/pets
    data            {NAME: SOURCE}, the images for the gate, "old" and "new"
    gate            further flags of `vision.evaluation.gate`, such as its rules

Writes OUT/gate.md and OUT/gate.json, and --workdir/base and head, the runs. Exits as the gate does:
with 0 if the pull request's model keeps all rules, with 1 if not, with 2 for a mistake.
"""

import argparse
import os
import pathlib
import shlex
import subprocess
import sys

from vision import cli
from vision.errors import RunError, UserError
from vision.support.reading import read_json

SETTINGS = pathlib.PurePath("scripts", "ci", "evaluate.json")
SCHEMA = {"config?": str, "flags?": [str], "model?": str, "data": {str: str}, "gate?": [str]}
SIDES = ("base", "head")


def main(argv: list[str]) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--base", type=pathlib.Path, required=True, help="checkout before the change")
    p.add_argument("--head", type=pathlib.Path, default=pathlib.Path(), help="checkout with it")
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/evaluate"))
    p.add_argument("--out", type=pathlib.Path, required=True)
    a = p.parse_args(argv)
    checkouts = {"base": a.base.resolve(), "head": a.head.resolve()}
    settings = read_settings(checkouts["head"] / SETTINGS)
    if "model" in settings:
        models = [checkouts[side] / settings["model"] for side in SIDES]
    else:
        models = [train(checkouts[side], settings, a.workdir.resolve() / side) for side in SIDES]
    data = [f"--data={name}={source}" for name, source in settings["data"].items()]
    words = [*map(str, models), *data, *settings.get("gate", ()), f"--out={a.out.resolve()}"]
    code = call(checkouts["head"], "vision.evaluation.gate", *words)
    if code == 1:
        raise RunError(f"the pull request's model does not pass: {a.out}/gate.md")
    if code:
        raise UserError("the two models could not be compared")


def read_settings(file: pathlib.Path) -> dict:
    """Returns what is compared.

    Raises:
        UserError: the file is missing or not valid.
    """
    settings = read_json(file, SCHEMA)
    if ("config" in settings) == ("model" in settings):
        raise UserError(f'{file} must have "config" or "model", and not both')
    return settings


def train(checkout: pathlib.Path, settings: dict, workdir: pathlib.Path) -> pathlib.Path:
    """Trains with the code of a checkout; returns the run's directory.

    Raises:
        UserError: the training failed.
    """
    words = [f"--config={settings['config']}", f"--workdir={workdir}", *settings.get("flags", ())]
    if call(checkout, "vision.main", *words):
        raise UserError(f"{checkout}: the training failed, so there is nothing to compare")
    return workdir


def call(checkout: pathlib.Path, module: str, *words: str) -> int:
    """Runs a command with the code of a checkout; returns its exit code."""
    if not (checkout / "vision").is_dir():
        raise UserError(f"{checkout} is not a checkout of this code: it has no vision/")
    print(f"{checkout.name}$ python -m {shlex.join([module, *words])}", flush=True)
    command = [sys.executable, "-m", module, *words]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    return subprocess.run(command, cwd=checkout, env=environment).returncode


if __name__ == "__main__":
    cli.run(main)
