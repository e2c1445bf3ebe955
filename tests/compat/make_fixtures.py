"""Writes tests/compat/fixtures: what an earlier commit wrote, for today's code to open.

    git worktree add /tmp/before d03b4df
    python tests/compat/make_fixtures.py /tmp/before

Every command below ran in one directory, with that checkout as `vision`, on one CPU. Each result is
a .tar.gz of the directory that the command wrote; to repeat this with another commit is to say
what that one wrote instead, so the files are made anew only when a format changes on purpose.

supervised.tar.gz   a finished run with a moving average, early stopping and its evaluation
interrupted.tar.gz  the same training, ended by SIGTERM at step 26 of 60
continued.json.gz   metrics.jsonl and result.json of that run once the same code had finished it
head.tar.gz         transfer.mode=head with cache_embeddings, from supervised
lora.tar.gz         transfer.mode=lora, from supervised
bundle.tar.gz       the ONNX bundle of supervised
pack.tar.gz         a pack of eight small images, and pixels.npz: how they were decoded
configs.json.gz     {spec: config} of every file in configs/, each with and without :smoke
"""

import argparse
import gzip
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

COMMIT = "d03b4df"
FIXTURES = pathlib.Path(__file__).parent / "fixtures"

# A ViT of 14 thousand parameters on digits of 8 px, with everything that a checkpoint has to keep.
MODEL = (
    "--config.model.name=vit",
    "--config.model.variant=mu/4",
    "--config.model.batch_norm_groups=None",
    "--config.model.stochastic_depth=None",
    "--config.parallel.devices=1",
    "--config.log.progress=False",
    "--config.log.tensorboard=False",
    "--config.log.every=10",
    "--config.checkpoint.every=0",
    "--config.checkpoint.keep_latest=1",
)
SUPERVISED = (
    *MODEL,
    "--config.model.dropout=0.1",
    "--config.augment.mixup=0.2",
    "--config.optimizer.name=adamw",
    "--config.optimizer.learning_rate=0.01",
    "--config.optimizer.ema=0.9",
    "--config.early_stopping.enabled=True",
    "--config.early_stopping.patience=9",
    "--config.data.limit=400",
    "--config.train.steps=60",
    "--config.train.batch_size=32",
    "--config.train.eval_every=20",
    "--config.train.eval_batch_size=64",
)
TRANSFER = (
    *MODEL,
    "--config.augment.affine=False",
    "--config.model.pretrained=supervised",
    "--config.data.limit=64",
    "--config.train.steps=8",
    "--config.train.eval_every=8",
)
HEAD = ("--config.transfer.mode=head", "--config.transfer.cache_embeddings=True")
EVALUATION = (
    "--config.evaluation.bootstrap=60",
    "--config.evaluation.explain=False",
    "--config.evaluation.corruptions=False",
    "--config.evaluation.views=False",
    "--config.evaluation.errors=2",
    "--config.evaluation.examples=1",
    "--config.evaluation.pairs=1",
    "--config.evaluation.map=none",
    "--config.evaluation.probe=0",
)
# The signal comes during a step whose number is known, so that the fixture can be made again.
INTERRUPTED = """
import os, signal, sys
from vision import cli, main
from vision.training.log import RunLog

advance = RunLog.advance

def advance_and_end(log, step):
    advance(log, step)
    if step == 26:
        os.kill(os.getpid(), signal.SIGTERM)

RunLog.advance = advance_and_end
cli.run(main.main, sys.argv[1:])
"""
PHOTOS = """
import pathlib
import cv2
import numpy as np

random = np.random.default_rng(0)
for label in ("bird", "cat"):
    folder = pathlib.Path("photos", label)
    folder.mkdir(parents=True)
    for i in range(4):
        coarse = random.integers(0, 256, (3, 4, 3), np.uint8)
        image = cv2.resize(coarse, (16 + i, 12), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i}.{'jpg' if i % 2 else 'png'}"), image)
"""
PIXELS = """
import numpy as np
from vision.data.sources import open_splits

pixels = {}
for part, source in open_splits("packed:pack").items():
    for i in range(len(source)):
        name = f"{part}/{source.labels[i]}/{source.name(i)}"
        pixels[name] = source[i]["image"]
np.savez_compressed("pack/pixels.npz", **pixels)
"""
CONFIGS = """
import ast, json, pathlib, re
from vision import cli

specs = set()
for file in sorted(pathlib.Path("configs").glob("*.py")):
    usage = ast.get_docstring(ast.parse(file.read_text()))
    specs |= {f"configs/{file.name}", *re.findall(r"python -m vision.main --config (\\S+)", usage)}
specs |= {f"{spec}:smoke" for spec in specs if not spec.endswith(":smoke")}
print(json.dumps({spec: cli.load(spec).to_dict() for spec in sorted(specs)}))
"""


class Checkout:
    """Runs commands of a checkout in a directory of results.

    Args:
        path: root of the checkout.
        directory: where the commands run and write.
    """

    def __init__(self, path: pathlib.Path, directory: pathlib.Path):
        self.path = path
        self.directory = directory
        self.environment = os.environ | {"PYTHONPATH": str(path), "JAX_PLATFORMS": "cpu"}

    def run(self, *words: str, inside: pathlib.Path | None = None) -> str:
        """Runs Python with these arguments, in the directory or `inside`; returns its output."""
        command = [sys.executable, *words]
        where = inside or self.directory
        done = subprocess.run(
            command, cwd=where, env=self.environment, stdout=subprocess.PIPE, text=True, check=True
        )
        print(done.stdout[-500:])
        return done.stdout

    def train(self, workdir: str, *flags: str, code: str = "") -> None:
        """Trains configs/digits.py:smoke and further flags, by `code` if not by the command."""
        start = ("-c", code) if code else ("-m", "vision.main")
        config = f"--config={self.path}/configs/digits.py:smoke"
        self.run(*start, config, f"--workdir={workdir}", *flags)

    def keep(self, name: str) -> None:
        """Puts a directory into the fixtures as NAME.tar.gz."""
        with tarfile.open(FIXTURES / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(self.directory / name, name)


def make(checkout: Checkout) -> None:
    """Runs the commands and writes the fixtures."""
    directory = checkout.directory
    checkout.train("supervised", *SUPERVISED)
    checkout.run("-m", "vision.evaluation", "--workdir=supervised", *EVALUATION)
    evaluation = directory / "supervised" / "evaluation"
    for file in (*evaluation.glob("*.png"), *evaluation.glob("*.html"), *evaluation.glob("*.md")):
        file.unlink()  # no program reads them
    checkout.run("-m", "vision.export", "--workdir=supervised", "--out=bundle")
    checkout.train("head", *TRANSFER, *HEAD)
    checkout.train("lora", *TRANSFER, "--config.transfer.mode=lora")
    checkout.train("interrupted", *SUPERVISED, code=INTERRUPTED)
    checkout.run("-c", PHOTOS)
    checkout.run("-m", "vision.data", "pack", "folder:photos", "pack", "--workers=1")
    checkout.run("-c", PIXELS)
    for name in ("supervised", "interrupted", "head", "lora", "bundle", "pack"):
        checkout.keep(name)
    checkout.run("-m", "vision.main", "--workdir=interrupted")
    lines = (directory / "interrupted" / "metrics.jsonl").read_text().splitlines()
    result = json.loads((directory / "interrupted" / "result.json").read_text())
    write("continued", {"metrics": [json.loads(line) for line in lines], "result": result})
    write("configs", json.loads(checkout.run("-c", CONFIGS, inside=checkout.path)))


def write(name: str, content: dict) -> None:
    """Writes NAME.json.gz."""
    with gzip.open(FIXTURES / f"{name}.json.gz", "wt") as file:
        json.dump(content, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=pathlib.Path, help=f"a checkout of commit {COMMIT}")
    path = parser.parse_args().checkout.resolve()
    command = ["git", "-C", str(path), "rev-parse", "HEAD"]
    commit = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    if not commit.startswith(COMMIT):
        parser.error(f"{path} is at {commit.strip()}, not at {COMMIT}")
    shutil.rmtree(FIXTURES, ignore_errors=True)
    FIXTURES.mkdir()
    with tempfile.TemporaryDirectory() as directory:
        make(Checkout(path, pathlib.Path(directory)))


if __name__ == "__main__":
    main()
