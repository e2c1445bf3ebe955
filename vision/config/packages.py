"""The packages that a config needs beyond those of every training, checked before it begins."""

import re

from ml_collections import ConfigDict

from vision.config.trackers import check_tracker
from vision.support.extras import require
from vision.support.packaged import PLAIN, in_package


def check_packages(config: ConfigDict) -> None:
    """Raises `UserError` if a package that a config needs is not installed; says what to install.

    A data set of TensorFlow's that is not prepared yet needs TensorFlow, which only opening it
    tells.
    """
    for source in re.split(r" [+|] ", f"{config.data.source} | {config.continual.tasks}"):
        kind = source.partition(":")[0]
        if kind == "hf":
            require(f"data.source = '{source}'", "hf", only=("datasets",))
        if kind == "parquet":
            require(f"data.source = '{source}'", "parquet", only=("pyarrow",))
    place, _, rest = config.model.pretrained.partition(":")
    if place == "package":
        module = rest.partition("/")[0]
        what = f"model.pretrained = '{config.model.pretrained}'"
        require(what, only=(module.replace("_", "-"),))
    if place == "hf":
        what = f"model.pretrained = '{config.model.pretrained}'"
        require(what, "pretrained", only=("huggingface-hub",))
    if config.objective.quantize != "none":
        what = f"objective.quantize = '{config.objective.quantize}'"
        require(what, "compression", only=("qwix",))
    tokenizer = config.text.tokenizer
    if tokenizer:
        require(f"text.tokenizer = '{tokenizer}'", "text", only=("tokenizers",))
        in_package("text.tokenizer", tokenizer, PLAIN)
    check_tracker(config.log)
    if config.imbalance.sampling == "smote":
        require("imbalance.sampling = 'smote'", "audit", only=("imbalanced-learn",))
