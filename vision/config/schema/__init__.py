"""The schema: every key that a config can set, with its default, its range and its meaning.

A config file changes what it needs and returns the result:

    from vision.config import default

    def get_config(arg=None):
        c = default()
        c.data.source = "folder:photos"
        return c

The keys and their types are locked: an unknown key or a wrong type is an error that names the
nearest key. `python -m vision.config [WORD]` prints the keys, or those about WORD.
"""

from ml_collections import ConfigDict

from vision.config.keys import SEED, Key, Section, key, number
from vision.config.schema.data import AUGMENT, CONTINUAL, DATA, IMBALANCE, STRONG, TEXT
from vision.config.schema.model import MODEL, OBJECTIVE, TRANSFER
from vision.config.schema.reports import AUDIT, EVALUATION
from vision.config.schema.training import (
    CHECKPOINT,
    EARLY_STOPPING,
    LOG,
    OPTIMIZER,
    PARALLEL,
    SCHEDULE,
    TRAIN,
)

# fmt: off
TOP = {
    "seed": number(0, SEED,
        "seed of the initialization, shuffling, augmentation and dropout"),
    "compile_cache": key("~/.cache/vision/xla",
        'folder that keeps compiled programs between runs; "" = none'),
    "profile": key(False,
        "trace some steps into the run's tensorboard/ folder, for TensorBoard's profile page"),
}
# fmt: on

SECTIONS: dict[str, Section] = {
    "data": DATA,
    "text": TEXT,
    "augment": AUGMENT,
    "strong": STRONG,
    "model": MODEL,
    "transfer": TRANSFER,
    "imbalance": IMBALANCE,
    "continual": CONTINUAL,
    "objective": OBJECTIVE,
    "optimizer": OPTIMIZER,
    "schedule": SCHEDULE,
    "train": TRAIN,
    "early_stopping": EARLY_STOPPING,
    "checkpoint": CHECKPOINT,
    "log": LOG,
    "parallel": PARALLEL,
    "audit": AUDIT,
    "evaluation": EVALUATION,
}


def default() -> ConfigDict:
    """Returns the schema with its defaults, as a locked `ConfigDict`."""
    config = ConfigDict()
    for name, top_key in TOP.items():
        config[name] = top_key.initial()
    for name, section in SECTIONS.items():
        config[name] = ConfigDict()
        for key_name, section_key in section.keys.items():
            config[name][key_name] = section_key.initial()
    config.lock()
    for name in OPTION_GROUPS:
        group, _, key_name = name.partition(".")
        config[group][key_name].unlock()
    return config


def all_keys() -> dict[str, Key]:
    """Returns {"section.key": key} of the whole schema, in its order."""
    keys = dict(TOP)
    for name, section in SECTIONS.items():
        keys |= {f"{name}.{key_name}": value for key_name, value in section.keys.items()}
    return keys


# groups with keys of any name, such as "model.options"
OPTION_GROUPS = tuple(name for name, value in all_keys().items() if value.type is ConfigDict)
