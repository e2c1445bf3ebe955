"""The same photos with this project, Ultralytics, timm and fastai: commands, size, cost, accuracy.

    python -m experiments.first_hour.compare --photos photos --workdir runs/first_hour \\
        --vision .venv --ultralytics ENV --timm ENV --timm-scripts FOLDER --fastai ENV \\
        --weights weights.pth
    python -m experiments.first_hour.compare --table

Each ENV is an environment of its own in which only that library is installed (`pip install
ultralytics`, `timm` or `fastai timm`; ours by `./scripts/setup device basics`); a row whose
environment is not named is not run. FOLDER has timm's train.py and validate.py, which its package
does not contain. `timm_weights.py` beside this file makes weights.pth. The split of a seed is the
same for everybody: 60 : 15 : 25 by class. Results that are there are not measured again.
"""

import argparse
import dataclasses
import datetime
import os
import pathlib
import re
import shlex
import shutil
import statistics
import subprocess
from collections.abc import Sequence

import numpy as np

from experiments.first_hour.machine import megabytes, processor
from experiments.first_hour.photos import read_photos
from experiments.first_hour.silence import observe
from experiments.readme import fill
from experiments.seeds import read_seeds
from experiments.table import read_rows, write_rows
from vision import cli
from vision.errors import RunError, UserError
from vision.support import progress

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "compare.csv"
ENVIRONMENTS = HERE / "environments.csv"
TIMEOUT = 86_400  # seconds of a command, however busy the machine is
SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}


@dataclasses.dataclass(frozen=True)
class Rival:
    """A library as a user has it.

    Attributes:
        name: of its row.
        environment: the flag that names its environment.
        package: whose version is reported.
        starts_from: the weights.
        commands: what is typed, with {data}, {seed}, {run}, {weights} and {scripts} filled in.
        written: lines of a program that the user writes beside the commands.
        printed: a pattern of the last output; its group is the test accuracy.
        percent: whether that is in percent.
    """

    name: str
    environment: str
    package: str
    starts_from: str
    commands: tuple[str, ...]
    printed: str
    written: int = 0
    percent: bool = False


OURS = "python -m vision train {data} --workdir {run} --config.seed={seed}"
TIMM = (
    "python {scripts}/train.py --data-dir {data} --val-split val --model tf_efficientnet_lite0"
    " --pretrained --pretrained-path {weights} --num-classes 3 --epochs 20 --batch-size 32"
    " --opt adamw --lr 1e-3 --warmup-epochs 2 --device cpu --seed {seed}"
    " --output {run} --experiment run",
    "python {scripts}/validate.py --data-dir {data} --split test --model tf_efficientnet_lite0"
    " --num-classes 3 --checkpoint {run}/run/model_best.pth.tar --device cpu",
)
YOLO = (
    "yolo classify train model=yolo26n-cls.yaml data={data} imgsz=224 device=cpu seed={seed}"
    " project={run} name=run",
    "yolo classify val model={run}/run/weights/best.pt data={data} split=test imgsz=224 device=cpu"
    " project={run} name=test",
)
FASTAI = "python " + str(HERE / "fastai_train.py") + " {data} {weights} {seed}"
ACCURACY = r"test: .*?accuracy ([\d.]+)"
IMAGENET = "ImageNet, EfficientNet-Lite0"
RIVALS = (
    Rival("vision", "vision", "vision", IMAGENET, (OURS,), ACCURACY),
    Rival("timm", "timm", "timm", IMAGENET, TIMM, r'"top1": ([\d.]+)', percent=True),
    Rival("fastai", "fastai", "fastai", IMAGENET, (FASTAI,), r"test accuracy ([\d.]+)", written=8),
    Rival("Ultralytics", "ultralytics", "ultralytics", "random", YOLO, r"\n\s+all\s+([\d.]+)"),
)


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--photos", type=pathlib.Path, help="folder of a folder for each class")
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/first_hour"))
    for name in ("vision", "ultralytics", "timm", "fastai"):
        p.add_argument(f"--{name}", type=pathlib.Path, help=f"environment with {name}")
    p.add_argument("--timm-scripts", type=pathlib.Path, help="folder of train.py, validate.py")
    p.add_argument("--weights", type=pathlib.Path, help="of timm's tf_efficientnet_lite0")
    empty = "'' only measures the environments"
    p.add_argument("--seeds", type=read_seeds, default="0,1,2", help=empty)
    p.add_argument("--only", default="", help="rows with this in their name")
    p.add_argument("--table", action="store_true", help="fill the table, run nothing")
    a = p.parse_args(argv)
    given = [rival for rival in RIVALS if getattr(a, rival.environment) is not None]
    check(given, a)
    for rival in given:
        write(ENVIRONMENTS, size(rival, getattr(a, rival.environment)))
    failures = []
    for seed in a.seeds if given else ():
        data = divide(a.photos, a.workdir.absolute() / f"data{seed}", seed)
        for rival in given:
            measured = [row["row"] for row in read_rows(RESULTS) if row["seed"] == str(seed)]
            if a.only in rival.name and rival.name not in measured:
                try:
                    write(RESULTS, measure(rival, data, seed, a))
                except RunError as error:  # the other rows and the table are worth their hours
                    failures.append(f"{rival.name}, seed {seed}: {error}")
                    print(failures[-1], flush=True)
    write_table()
    if failures:
        raise RunError("\n".join(failures))


def check(rivals: Sequence[Rival], a: argparse.Namespace) -> None:
    """Raises `UserError` if something is missing that the rows need, before any of them runs."""
    for rival in rivals:
        for name in ("python", *(command.split()[0] for command in rival.commands)):
            program = getattr(a, rival.environment) / "bin" / name
            if not program.is_file():
                raise UserError(
                    f"--{rival.environment}: there is no {program}: give an environment in which "
                    f"{rival.package} is installed"
                )
    if not (rivals and a.seeds):
        return
    if a.photos is None:
        raise UserError("give --photos FOLDER, or --seeds '' to measure the environments only")
    read_photos(a.photos)
    run = [rival for rival in rivals if a.only in rival.name]
    texts = " ".join(command for rival in run for command in rival.commands)
    if "{weights}" in texts and not (a.weights and a.weights.is_file()):
        raise UserError(f"give --weights FILE, which timm_weights.py makes, got {a.weights}")
    scripts = (a.timm_scripts and a.timm_scripts / name for name in ("train.py", "validate.py"))
    if "{scripts}" in texts and not all(script and script.is_file() for script in scripts):
        raise UserError(
            f"give --timm-scripts FOLDER with timm's train.py and validate.py, got {a.timm_scripts}"
        )


def divide(photos: pathlib.Path, folder: pathlib.Path, seed: int) -> pathlib.Path:
    """Copies photos into FOLDER/{train,val,test}/CLASS, unless it exists; returns the folder."""
    if folder.is_dir():
        return folder
    hidden = folder.with_name(f".{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)  # of a stopped call
    random = np.random.default_rng(seed)
    for place in sorted(path for path in photos.iterdir() if path.is_dir()):
        files = sorted(place.glob("*.jpg"))
        ends = np.round(np.cumsum(list(SHARES.values())) * len(files)).astype(int)
        parts = np.split(random.permutation(len(files)), ends[:-1])
        for split, rows in zip(SHARES, parts, strict=True):
            target = hidden / split / place.name
            target.mkdir(parents=True)
            for row in rows:
                shutil.copy(files[row], target)
    hidden.rename(folder)
    return folder


def size(rival: Rival, environment: pathlib.Path) -> dict[str, object]:
    """Returns the row of environments.csv: what is installed, and how large it is."""
    return {
        "row": rival.name,
        "version": version(environment / "bin" / "python", rival.package),
        "megabytes": megabytes(environment),
        "date": datetime.date.today().isoformat(),
    }


def measure(rival, data, seed, a) -> dict[str, object]:
    """Runs a row's commands; returns the row of compare.csv.

    Raises:
        RunError: a command failed, or the last one has not said how good the model is.
    """
    run = a.workdir.absolute() / f"{rival.name}{seed}"
    # What a stopped call has left would be continued, or tested instead of this training.
    shutil.rmtree(run, ignore_errors=True)
    own = getattr(a, rival.environment).absolute() / "bin"
    values = {"data": data, "seed": seed, "run": run, "weights": a.weights, "scripts": ""}
    if a.timm_scripts is not None:
        values["scripts"] = a.timm_scripts.absolute()
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    variables |= {"PATH": f"{own}:{os.environ['PATH']}"}
    load = os.getloadavg()[0]
    seconds = 0.0
    cpu = 0.0
    output = ""
    for command in rival.commands:
        text = command.format(**{name: shlex.quote(str(value)) for name, value in values.items()})
        print("$", text, flush=True)
        with progress.waiting("running it"):
            seen = observe(shlex.split(text), env=variables, timeout=TIMEOUT)
        if seen.exit_code:
            raise RunError(f"{text}: exit code {seen.exit_code}\n{seen.output[-3000:]}")
        seconds += seen.seconds
        cpu += seen.cpu_seconds
        output = seen.output
    accuracies = re.findall(rival.printed, output)
    if not accuracies:
        raise RunError(f"{rival.name}: no accuracy in the output\n{output[-3000:]}")
    accuracy = float(accuracies[-1]) / (100 if rival.percent else 1)
    return {
        "row": rival.name,
        "seed": seed,
        "version": version(own / "python", rival.package),
        "accuracy": round(accuracy, 4),
        "cpu_seconds": round(cpu, 1),
        "seconds": round(seconds, 1),
        "test_images": len(list(data.glob("test/*/*"))),
        "load": round(load, 1),
        "device": processor(),
        "date": datetime.date.today().isoformat(),
    }


def version(python: pathlib.Path, package: str) -> str:
    """Returns the version of a package in an environment.

    Raises:
        UserError: it is not installed there.
    """
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{python} has no package {package}: install it there")
    return done.stdout.strip()


def write(file: pathlib.Path, row: dict[str, object]) -> None:
    """Puts a row into a CSV file, in the place of the one of the same row and seed."""
    key = (row["row"], str(row.get("seed", "")))
    rows = [old for old in read_rows(file) if (old["row"], old.get("seed", "")) != key]
    write_rows(file, list(row), [*rows, row])


def write_table() -> None:
    """Fills the table of README.md beside this file."""
    lines = [
        "| library | version | starts from | commands | lines written | environment, MB | "
        "CPU s to the test accuracy | test accuracy | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    environments = {row["row"]: row for row in read_rows(ENVIRONMENTS)}
    for rival in RIVALS:
        rows = [row for row in read_rows(RESULTS) if row["row"] == rival.name]
        installed = environments.get(rival.name, {"version": "", "megabytes": ""})
        cells = [rival.name, installed["version"], rival.starts_from, str(len(rival.commands))]
        cells += [str(rival.written), installed["megabytes"]]
        if not rows:
            lines.append("| " + " | ".join([*cells, "", "not run", ""]) + " |")
            continue
        accuracies = [100 * float(row["accuracy"]) for row in rows]
        spread = f" ± {statistics.stdev(accuracies):.1f}" if len(rows) > 1 else ""
        cpu = statistics.mean(float(row["cpu_seconds"]) for row in rows)
        accuracy = f"{statistics.mean(accuracies):.1f}{spread} %"
        cells += [f"{cpu:,.0f}", accuracy, str(len(rows))]
        lines.append("| " + " | ".join(cells) + " |")
    fill(HERE / "README.md", lines, "compare")


if __name__ == "__main__":
    cli.run(main)
