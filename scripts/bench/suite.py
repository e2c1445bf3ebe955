"""Runs all rows of one kind of machine in turn, each in its own process.

    ./scripts/bench/gpu.sh                      every GPU row
    ./scripts/bench/cpu.sh                      every CPU row
    ./scripts/bench/gpu.sh --only ResNet-50 --torch-python PATH
    ./scripts/bench/gpu.sh --list               show the commands

--only runs the row of this name, or else those whose name contains it.

A row that cannot run is skipped. Afterwards `python -m scripts.bench.page` puts the measurements
into experiments/speed/README.md.
"""

import argparse
import dataclasses
import shlex
import subprocess
import sys
import time

from scripts.bench import common
from vision import cli

NEEDS_TORCH = ("train", "inference", "input")
RESNET50 = (
    "--model resnet --variant 50 --image-size 224 --batch 256 --dtype bfloat16 --classes 1000"
)
VIT_B = "--model vit --variant B/16 --image-size 224 --batch 256 --dtype bfloat16 --classes 1000"
VIT_S = "--model vit --variant S/16 --image-size 224 --batch 256 --dtype bfloat16 --classes 1000"
RESNET20 = "--model resnet --variant cifar20 --image-size 32 --batch 128"
VIT_TI = "--model vit --variant Ti/4 --image-size 32"
MANY = "--dtype bfloat16 --steps-per-dispatch 32 --steps 640 --rounds 5 --warmup 64"


@dataclasses.dataclass(frozen=True)
class Row:
    """One benchmark.

    Attributes:
        label: its name on the page.
        goal: what it should reach.
        script: module of scripts/bench.
        flags: the script's flags.
    """

    label: str
    goal: str
    script: str
    flags: str = ""

    def command(self, torch_python=""):
        """Returns the command as a list, without the interpreter."""
        command = ["-m", f"scripts.bench.{self.script}", *shlex.split(self.flags)]
        if torch_python and self.script in NEEDS_TORCH:
            command += ["--torch-python", torch_python]
        command.append(f"--label={self.label}")
        if self.goal:
            command.append(f"--goal={self.goal}")
        return command


OPTIONS = (  # tried one at a time, against the defaults
    "xla_gpu_enable_latency_hiding_scheduler=true",
    "xla_gpu_enable_triton_gemm=false",
    "xla_gpu_exhaustive_tiling_search=true",
    "xla_gpu_cudnn_gemm_fusion_level=2",
)
GPU = (
    Row(
        "ResNet-50, 224 px: timm",
        "≥ 1.05; ≥ 3,500 images/s on an H100",
        "train",
        f"{RESNET50} --against timm",
    ),
    Row("ResNet-50, 224 px: torch.compile", "≥ 1.05", "train", f"{RESNET50} --against compile"),
    Row(
        "ResNet-50, 224 px: loop / bare step",
        "≥ 0.97",
        "train",
        f"{RESNET50} --against step --steps 100",
    ),
    Row(
        "ViT-B/16, 224 px: torch.compile",
        "≥ 1.10; ≥ 45 % MFU",
        "train",
        f"{VIT_B} --against compile",
    ),
    Row("ViT-S/16, 224 px: torch.compile", "≥ 1.05", "train", f"{VIT_S} --against compile"),
    Row(
        "ViT-S/16, 224 px: loop / bare step",
        "≥ 0.97",
        "train",
        f"{VIT_S} --against step --steps 100",
    ),
    Row("ResNet-20, CIFAR: DataLoader", "≥ 3", "train", f"{RESNET20} {MANY} --against loader"),
    Row(
        "ResNet-20, CIFAR: loop / bare step",
        "≥ 0.91; ≥ 0.97",
        "train",
        f"{RESNET20} {MANY} --against step",
    ),
    Row(
        "ViT-Ti/4, CIFAR: DataLoader",
        "≥ 3",
        "train",
        f"{VIT_TI} --batch 512 {MANY} --against loader",
    ),
    Row(
        "ViT-Ti/4, CIFAR: loop / bare step",
        "≥ 0.91; ≥ 0.97",
        "train",
        f"{VIT_TI} --batch 512 {MANY} --against step",
    ),
    Row("airbench94, 10 runs", "≥ 94 %; ≤ 4 s on an H100", "airbench", "--seeds 10"),
    Row("attention", "", "attention"),
    Row("input", "", "input"),
    Row("evaluation, ResNet-50", "≥ 0.9", "evaluation", f"{RESNET50} --images 20000"),
    Row("evaluation, ResNet-20", "≥ 0.9", "evaluation", "--dtype bfloat16"),
    Row("start", "", "startup"),
    Row("devices", "", "scaling", f"{RESNET50} --steps 20"),
    Row("roofline", "", "roofline"),
    *(
        Row(f"{name}: {option}", "", "train", f"{flags} --against defaults --xla-options {option}")
        for name, flags in (("ResNet-50, 224 px", RESNET50), ("ViT-B/16, 224 px", VIT_B))
        for option in OPTIONS
    ),
)
SHORT = "--rounds 5 --steps 6 --warmup 2"
SHORTER = "--rounds 5 --steps 3 --warmup 2"


def _training(name, flags, goal):
    """Returns the rows of a model's training step on a CPU; the goal is that against eager
    PyTorch."""
    return (
        Row(f"{name}: torch", goal, "train", f"{flags} --against torch"),
        Row(f"{name}: torch.compile", "stated", "train", f"{flags} --against compile"),
        Row(f"{name}: without oneDNN", "stated", "train", f"{flags} --against xla"),
    )


def _inference(name, flags, goal):
    """Returns the rows of a model's answers to 32 images and to one; the goal is that of 32."""
    return (
        Row(f"{name}, inference of 32", goal, "inference", f"{flags} --batch 32"),
        Row(f"{name}, inference of 1", "stated", "inference", f"{flags} --batch 1"),
    )


CPU = (
    *_training("ViT-Ti/4, 32 px", f"{VIT_TI} --batch 64 {SHORT}", "≥ 1.05"),
    *_training("ResNet-20, 32 px", f"{RESNET20} {SHORT}", "≥ 1.05"),
    *_training(
        "ResNet-50, batch 8",
        f"--model resnet --variant 50 --image-size 224 --classes 1000 --batch 8 {SHORTER}",
        "≥ 1.05",
    ),
    *_training(
        "EfficientNet-Lite0, batch 16",
        "--model efficientnet_lite --variant 0 --image-size 224 --classes 1000 --batch 16 "
        f"{SHORTER}",
        "≥ 1.0",
    ),
    *_training(
        "MobileNetV3, batch 16",
        f"--model mobilenet --variant large --image-size 224 --classes 1000 --batch 16 {SHORTER}",
        "≥ 1.0",
    ),
    *_training(
        "ConvNeXt-T, batch 8",
        "--model convnext --variant T --image-size 224 --classes 1000 --batch 8 "
        f"--optimizer adamw {SHORTER}",
        "stated",
    ),
    *_training(
        "Swin-T, batch 8",
        "--model swin --variant T --image-size 224 --classes 1000 --batch 8 "
        f"--optimizer adamw {SHORTER}",
        "stated",
    ),
    Row(
        "ViT-Ti/4, 32 px: loop / bare step",
        "≥ 0.97",
        "train",
        f"{VIT_TI} --batch 64 {SHORT} --against step",
    ),
    Row(
        "ResNet-20, 32 px: loop / bare step",
        "≥ 0.97",
        "train",
        f"{RESNET20} {SHORT} --against step",
    ),
    Row(
        "ResNet-20, an epoch: torch",
        "≥ 1.3",
        "train",
        f"{RESNET20} --rounds 3 --against epoch --loader-step torch",
    ),
    Row(
        "ResNet-20, an epoch: torch.compile",
        "stated",
        "train",
        f"{RESNET20} --rounds 3 --against epoch --loader-step compile",
    ),
    *_inference("ResNet-50", "--model resnet --variant 50", "≥ 0.95 of ONNX Runtime"),
    *_inference(
        "EfficientNet-Lite0", "--model efficientnet_lite --variant 0", "≥ 0.95 of ONNX Runtime"
    ),
    *_inference("ViT-Ti/4", "--model vit --variant Ti/4 --image-size 32 --classes 10", "stated"),
    Row("input", "", "input"),
    Row("evaluation, ResNet-20", "≥ 0.9", "evaluation"),
    Row("start", "≤ 15 s cold, ≤ 8 s warm", "startup"),
    Row(
        "devices",
        "state ≤ 0.2 of replicated on 8",
        "scaling",
        "--variant nano/4 --batch 8 --steps 2 --rounds 2",
    ),
    Row("attention", "", "attention"),
    Row("roofline", "", "roofline"),
)
SUITES = {"gpu": GPU, "cpu": CPU}


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("suite", choices=tuple(SUITES))
    p.add_argument("--only", default="", help="name of a row, or a part of the names of several")
    common.add_torch_python(p)
    p.add_argument("--list", action="store_true", help="show the commands, run nothing")
    a = p.parse_args(argv)
    outcomes = []
    for row in chosen(SUITES[a.suite], a.only):
        command = row.command(a.torch_python)
        print(f"\n## {row.label}\npython {shlex.join(command)}", flush=True)
        if not a.list:
            start = time.monotonic()
            outcome = _run(command)
            outcomes.append(
                {
                    "row": row.label,
                    "goal": row.goal,
                    "outcome": outcome,
                    "s": time.monotonic() - start,
                }
            )
    if outcomes:
        print()
        common.print_table(outcomes)


def chosen(rows, only):
    """Returns the row with the label `only`, or else the rows whose labels contain it."""
    named = [row for row in rows if row.label == only]
    return named or [row for row in rows if only in row.label]


def _run(command):
    """Runs a row and shows its output; returns its last line, or why it was skipped."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=common.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    return last if process.wait() == 0 else f"skipped: {last}"


if __name__ == "__main__":
    cli.run(main)
