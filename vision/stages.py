"""The stages by the names that the command `vision` gives them, in the order of a model's life.

Standard library only, and little of it: `vision --help` must be there at once.
"""

import os
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple


class Stage(NamedTuple):
    """A stage, as the command `vision` starts it.

    Attributes:
        name: what follows `vision`.
        module: what `python -m` runs.
        meaning: one line for the table.
        extras: extras of pyproject.toml that have the packages it needs, whatever its flags are.
        only: names of these packages, if they are not all of the extras.
        without: packages of the extras that are not needed.
    """

    name: str
    module: str
    meaning: str
    extras: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


GROUPS = {
    "Data": (
        Stage("data", "vision.data", "describe, pack and verify a dataset"),
        Stage(
            "audit",
            "vision.audit",
            "wrong labels, duplicates, broken files",
            ("audit",),
            without=("imbalanced-learn",),
        ),
        Stage(
            "synthesize",
            "vision.synthesize",
            "training images from a GAN",
            ("evaluation",),
            only=("jinja2",),
        ),
    ),
    "Training": (
        Stage("train", "vision.main", "train on your images or from a config"),
        Stage(
            "search", "vision.search", "find the best hyperparameters over many runs", ("search",)
        ),
        Stage(
            "nas",
            "vision.search.architecture",
            "search for network architectures by accuracy and cost",
            ("search",),
            only=("matplotlib", "optuna"),
        ),
        Stage(
            "continual",
            "vision.continual",
            "learn tasks in sequence and measure forgetting",
            ("evaluation",),
            only=("matplotlib",),
        ),
        Stage("importance", "vision.continual.importance", "measure which weights matter to a run"),
        Stage("classes", "vision.run.classes", "rename, merge or split a run's classes"),
    ),
    "Judgment": (
        Stage(
            "evaluate",
            "vision.evaluation",
            "how good is it, and where does it fail?",
            ("evaluation",),
            without=("onnxruntime",),  # only for bundles
        ),
        Stage("runs", "vision.runs", "all runs: a table, a page, a live view"),
        Stage(
            "unsure",
            "vision.evaluation.unsure",
            'choose when a model answers "unsure"',
            ("evaluation",),
            without=("onnxruntime",),  # only for bundles
        ),
        Stage(
            "compare",
            "vision.evaluation.compare",
            "compare evaluated runs image by image",
            ("evaluation",),
            without=("onnxruntime",),  # only for bundles
        ),
        Stage(
            "gate",
            "vision.evaluation.gate",
            "may a new model replace the old one?",
            ("evaluation",),
            without=("onnxruntime",),  # only for bundles
        ),
        Stage("probe", "vision.evaluation.probe", "how well embeddings separate the classes"),
        Stage(
            "retrieve",
            "vision.evaluation.retrieval",
            "how well images and captions find each other",
            ("text",),
        ),
        Stage("predict", "vision.predict", "classify new images"),
    ),
    "Delivery": (
        Stage("prune", "vision.compression.prune", "remove channels"),
        Stage(
            "quantize",
            "vision.compression.quantize",
            "convert a bundle to INT8",
            ("compression",),
            only=("onnx", "onnxruntime"),
        ),
        Stage(
            "costs",
            "vision.compression.report",
            "compare the size, speed and quality of models",
            ("compression",),
            only=("jinja2", "matplotlib", "onnx", "onnxruntime"),
        ),
        Stage(
            "export",
            "vision.export",
            "ONNX, TFLite, ...: a bundle that needs no JAX",
            ("export",),
            only=("jax2onnx", "onnx", "onnxruntime"),
        ),
        Stage(
            "serve",
            "vision.serving",
            "the model server and its web page",
            ("serving",),
            without=("ai-edge-litert", "pyarrow", "uvloop"),
        ),
        Stage("client", "vision.serving.client", "classify images through a server"),
    ),
    "Operation": (
        Stage(
            "drift",
            "vision.monitoring.drift",
            "have the requests changed since training?",
            ("monitoring",),
            only=("jinja2", "pyarrow"),
        ),
        Stage(
            "quality",
            "vision.monitoring.quality",
            "has the model become worse?",
            ("monitoring",),
            only=("jinja2", "pyarrow", "scipy"),
        ),
        Stage(
            "abtest",
            "vision.monitoring.abtest",
            "which version is better?",
            ("monitoring",),
            only=("jinja2", "pyarrow", "scipy", "statsmodels"),
        ),
        Stage(
            "rollout",
            "vision.monitoring.rollout",
            "shift traffic to a new version, step by step",
            ("monitoring",),
            only=("jinja2", "prometheus-client", "pyarrow", "scipy"),
        ),
        Stage(
            "collect",
            "vision.monitoring.collect",
            "which images are worth labeling?",
            ("monitoring",),
            only=("imagehash", "jinja2", "pyarrow"),
        ),
    ),
    "Help": (
        Stage("models", "vision.models", "architectures, sizes, published weights"),
        Stage("config", "vision.config", "every config key, or those that match a word"),
        Stage("configs", "vision.config.shipped", "the configs that ship with the package"),
        Stage("doctor", "vision.doctor", "what works on this machine, and what does not"),
    ),
}
# Extras that scripts/vision installs with "basics"; of "export" only what ONNX needs.
BASICS = ("evaluation", "serving", "export")
# Words that a user may try, and the stages that are meant.
SYNONYMS = {
    "benchmark": ("costs",),
    "check": ("doctor", "audit"),
    "classify": ("predict",),
    "compress": ("prune", "quantize", "costs"),
    "deploy": ("export", "serve"),
    "download": ("models",),
    "eval": ("evaluate",),
    "finetune": ("train",),
    "fit": ("train",),
    "help": ("--help",),
    "infer": ("predict",),
    "info": ("data",),
    "keys": ("config",),
    "label": ("collect",),
    "monitor": ("drift", "quality"),
    "pack": ("data",),
    "server": ("serve",),
    "sweep": ("search",),
    "test": ("evaluate",),
    "transfer": ("train",),
    "tune": ("search",),
    "validate": ("evaluate",),
    "version": ("doctor",),
}
# scripts/vision: `python -m vision --called-as ./scripts/vision STAGE ...`, for what is printed.
CALLED_AS = "--called-as"
PYTHON = re.compile(r"python -m (vision(?:\.\w+)*)\b")


def stages() -> Iterator[Stage]:
    """Yields every stage, in the order of the table."""
    for group in GROUPS.values():
        yield from group


def stage_of(name: str) -> Stage:
    """Returns the stage with a name.

    Raises:
        KeyError: there is none.
    """
    return {stage.name: stage for stage in stages()}[name]


def program() -> str:
    """Returns how the command `vision` was called, such as "vision"; "" if it was not.

    It follows from how this process was started, as a stage replaces `sys.argv[0]`.
    """
    words = sys.orig_argv[1:]
    while words and words[0].startswith("-") and words[0] != "-m":  # the interpreter's own
        del words[0]
    if words[:2] == ["-m", "vision"]:
        return words[3] if words[2:3] == [CALLED_AS] and len(words) > 3 else "python -m vision"
    return "vision" if words and os.path.basename(words[0]) == "vision" else ""


def as_called(text: str) -> str:
    """Returns a text with its commands in the form in which this process was started.

    Under the command `vision`, "python -m vision.evaluation --workdir RUN" becomes
    "vision evaluate --workdir RUN"; a module that is not a stage stays as it is.
    """
    caller = program()
    if not caller:
        return text
    names = {stage.module: stage.name for stage in stages()}

    def rewrite(match: re.Match[str]) -> str:
        name = names.get(match[1])
        return f"{caller} {name}" if name else match[0]

    return PYTHON.sub(rewrite, text)
